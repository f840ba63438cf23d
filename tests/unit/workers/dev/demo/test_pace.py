"""The pace: a fast LM is asked many questions at a time, a slow one few, and each gets the time that it needs."""

from __future__ import annotations

from typing import Any

import pytest

from snakepit_bridge.exceptions import ConfigurationError, LMAnswerError, LMUnavailableError
from workers.dev.demo.pace import MAX_IN_FLIGHT, MIN_WAIT_S, AskingRate, check_lm
from workers.dev.demo.script import Question

QUESTION = Question("q", "math", {"question": "What is 2 + 2?"}, {"answer": 4.0})


class OneAnswer:
    """A fleet that ends each prediction in the same way."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error
        self.deadlines: list[float] = []

    def submit(self, program: str, inputs: Any, *, session: str, deadline: float) -> OneAnswer:
        assert (program, inputs, session) == ("math", QUESTION.inputs, "demo")
        self.deadlines.append(deadline)
        return self

    def get(self, timeout: float) -> Any:
        assert timeout > self.deadlines[-1], "the prediction ends by itself before its caller stops waiting"
        if self.error is not None:
            raise self.error
        return object()


@pytest.mark.parametrize(
    ("first_answer_s", "in_flight", "wait_s"),
    [(0.0, 16, 120), (1.0, 16, 160), (2.0, 10, 200), (8.0, 2, 160), (60.0, 2, 1200)],
)
def test_the_pace_follows_from_the_first_answer(first_answer_s: float, in_flight: int, wait_s: float) -> None:
    """A server on two cores isn't asked sixteen questions at a time and given two minutes for each."""
    assert AskingRate.choose(first_answer_s) == AskingRate(in_flight, wait_s)


@pytest.mark.parametrize("first_answer_s", [0.1, 0.9, 3.0, 11.0, 45.0, 300.0])
def test_a_server_that_answers_one_at_a_time_has_the_time_to_answer_all(first_answer_s: float) -> None:
    pace = AskingRate.choose(first_answer_s)
    assert 2 <= pace.in_flight <= MAX_IN_FLIGHT
    assert pace.wait_s >= max(MIN_WAIT_S, 3 * pace.in_flight * first_answer_s)


def test_what_was_asked_for_is_taken() -> None:
    assert AskingRate.choose(8.0, in_flight=5) == AskingRate(5, 400)
    assert AskingRate.choose(8.0, wait_s=7) == AskingRate(2, 7)


@pytest.mark.parametrize("error", [None, LMAnswerError("openai/x", "unparsable", "no such field")])
def test_an_lm_that_answers_passes_the_check_whatever_it_writes(error: Exception | None) -> None:
    fleet: Any = OneAnswer(error)
    assert 0 <= check_lm(fleet, "demo", QUESTION, "openai/x") < 5


def test_an_lm_that_does_not_answer_is_named_with_the_reason() -> None:
    fleet: Any = OneAnswer(LMUnavailableError("openai/x", "transport_error", "no connection"))
    with pytest.raises(ConfigurationError, match=r"openai/x did not answer.*LMUnavailableError.*no connection"):
        check_lm(fleet, "demo", QUESTION, "openai/x")
