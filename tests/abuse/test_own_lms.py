"""An LM that a program makes for itself is asked as its prediction's, or refused by name."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from snakepit_bridge.exceptions import DeadlineExceededError, OwnLMError, PredictionCancelledError
from tests.harness import own_lms
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S

# Registering a program runs it without an LM, so that threads of its own fail in this process.
pytestmark = pytest.mark.filterwarnings("ignore:Exception in thread:pytest.PytestUnhandledThreadExceptionWarning")

WAIT_S = PATIENCE_S


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), DSPEX_ALLOWED_PACKAGES="tests") as play:
        for kind in (*own_lms.WAYS, *own_lms.REFUSED, own_lms.ByItself):
            play.fleet.register(kind.__name__, kind())
        yield play


@pytest.mark.parametrize("kind", own_lms.WAYS)
def test_a_declared_model_is_asked_by_its_profile_with_the_programs_keywords(play: Stage, kind: type[Any]) -> None:
    mark = fresh("q")
    prediction = play.fleet.submit(kind.__name__, {"question": mark}).get(WAIT_S)
    assert prediction.answer == f"answer of {mark}"
    [request] = play.requests_with(mark)
    assert (request.model, request.body["temperature"], request.body["max_completion_tokens"]) == ("other", 0.25, 77)
    assert prediction.provenance.answered == {"demo": 1}
    assert list(prediction.provenance.usage) == ["openai/other"]


def test_an_lm_that_is_called_without_a_predictor_is_the_predictions_too(play: Stage) -> None:
    mark = fresh("q")
    prediction = play.fleet.submit("ByItself", {"question": mark}).get(WAIT_S)
    assert prediction.answer is not None
    assert prediction.provenance.answered == {"demo": 1}


@pytest.mark.parametrize(("kind", "reason"), own_lms.REFUSED.items())
def test_any_other_is_refused_by_name_and_never_asked(play: Stage, kind: type[Any], reason: str) -> None:
    with pytest.raises(OwnLMError, match=f"{reason}.*DSPEX_OWN_LMS"):
        play.fleet.submit(kind.__name__, {"question": fresh("q")}).get(WAIT_S)


@pytest.mark.parametrize("kind", [own_lms.ByKeyword, own_lms.Awaited])
def test_its_call_ends_with_its_prediction(play: Stage, kind: type[Any]) -> None:
    marks = fresh("q"), fresh("q")
    play.lm.delay(4)
    try:
        cancelled = play.fleet.submit(kind.__name__, {"question": marks[0]})
        play.await_asked(marks[0])
        assert cancelled.cancel()
        late = play.fleet.submit(kind.__name__, {"question": marks[1]}, deadline=1.5)
        with pytest.raises(PredictionCancelledError):
            cancelled.get(WAIT_S)
        with pytest.raises(DeadlineExceededError):
            late.get(WAIT_S)
    finally:
        play.lm.delay(0)


def test_an_operator_may_let_programs_ask_any(tmp_path_factory: pytest.TempPathFactory) -> None:
    settings: dict[str, Any] = {"DSPEX_ALLOWED_PACKAGES": "tests", "DSPEX_OWN_LMS": "true"}
    with stage(tmp_path_factory.mktemp("stage"), pool="threads", **settings) as play:
        for kind in (own_lms.OfItsClass, own_lms.ByKeyword):
            play.fleet.register(kind.__name__, kind())
        mark = fresh("q")
        assert play.fleet.submit("OfItsClass", {"question": mark}).get(WAIT_S).answer == f"dummy {mark}"
        assert play.fleet.submit("ByKeyword", {"question": mark}).get(WAIT_S).provenance.answered == {"demo": 1}
