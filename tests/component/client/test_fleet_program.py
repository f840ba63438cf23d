"""A registered program as a part of a local DSPy program."""

from __future__ import annotations

import copy
from typing import Any

import dspy
import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.fleet_program import FleetProgram
from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.protocol.messages import Result
from tests.unit.protocol.test_provenance import SAMPLE


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, Any, dict[str, Any]]]:
    """What the program submits; each is answered at once, as a worker would store it."""
    calls: list[tuple[str, Any, dict[str, Any]]] = []
    submit = Fleet.submit

    def answered(self: Fleet, program: str, inputs: Any, **options: Any) -> Any:
        calls.append((program, inputs, options))
        handle = submit(self, program, inputs, **options)
        self.app.backend.store_result(handle.id, Result({"answer": "42"}, SAMPLE.encode()).encode(), "SUCCESS")
        return handle

    monkeypatch.setattr(Fleet, "submit", answered)
    return calls


def test_a_call_submits_the_inputs_with_the_options_of_the_program(
    redis_url: str, submitted: list[tuple[str, Any, dict[str, Any]]]
) -> None:
    program = Fleet(redis_url).program("qa@prod", session="s", at_least="1.1", priority=9)
    assert program(question="why?").answer == "42"
    assert submitted == [("qa@prod", {"question": "why?"}, {"session": "s", "at_least": "1.1", "priority": 9})]


async def test_it_is_awaited_like_any_module(redis_url: str, submitted: list[tuple[str, Any, dict[str, Any]]]) -> None:
    prediction = await Fleet(redis_url).program("qa").acall(question="why?")
    assert (prediction.answer, prediction.provenance) == ("42", SAMPLE)


def test_it_runs_within_dspys_own_parallelism(redis_url: str, submitted: list[tuple[str, Any, dict[str, Any]]]) -> None:
    program = Fleet(redis_url).program("qa")
    pairs = [(program, dspy.Example(question=str(number)).with_inputs("question")) for number in range(6)]
    answers = dspy.Parallel(num_threads=3, disable_progress_bar=True)(pairs)
    assert [answer.answer for answer in answers] == ["42"] * 6


def test_it_is_a_part_of_a_program_that_is_copied(redis_url: str, submitted: list[Any]) -> None:
    class Outer(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ask = Fleet(redis_url).program("qa", session="s")
            self.local = dspy.Predict("question -> answer")

    outer = Outer()
    twin = outer.deepcopy()
    assert isinstance(twin.ask, FleetProgram)
    assert twin.ask(question="why?").answer == "42"
    assert [name for name, _ in outer.named_predictors()] == ["local"], "it has no predictors of its own here"
    assert copy.copy(outer.ask)(question="why?").answer == "42"


def test_what_befalls_the_prediction_is_raised_where_it_was_called() -> None:
    with pytest.raises(StoreUnavailableError):
        Fleet("redis://127.0.0.1:1/0", timeout_s=0.3).program("qa")(question="why?")
