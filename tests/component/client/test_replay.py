"""Replay: the same question under the same revision and program version, and what came out differently."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import BridgeError, PredictionFailedError, PredictionTimeoutError
from snakepit_bridge.protocol.messages import Result
from tests.unit.protocol.test_provenance import SAMPLE

INPUTS = {"question": "why?"}


class Asked:
    """Stands where the workers are: takes what is submitted, and has the repetition's result at once."""

    def __init__(self, fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fleet = fleet
        self.seen: list[tuple[Any, ...]] = []
        self.outputs: dict[str, Any] | None = {"answer": "again"}
        monkeypatch.setattr(fleet, "submit", self.submit)

    def submit(self, program: str, inputs: Mapping[str, Any], **terms: Any) -> Any:
        self.seen.append((program, inputs, terms))
        if self.outputs is not None:
            self.fleet.app.backend.store_result("again", Result(self.outputs, SAMPLE.encode()).encode(), "SUCCESS")
        return self.fleet.handle("again")

    def finish(self, task_id: str, **outputs: Any) -> None:
        self.fleet.app.backend.store_result(task_id, Result(outputs, SAMPLE.encode(), INPUTS).encode(), "SUCCESS")


@pytest.fixture
def asks(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> Asked:
    return Asked(Fleet(redis_url, wait_s=5), monkeypatch)


def test_it_is_asked_again_under_the_exact_revision_and_program_version(asks: Asked) -> None:
    asks.finish("first", answer="first")
    replay = asks.fleet.replay("first")
    assert asks.seen == [
        (f"{SAMPLE.program}:{SAMPLE.version}", INPUTS, {"session": SAMPLE.session, "exactly": SAMPLE.token})
    ]
    assert (replay.inputs, replay.first.answer, replay.again.answer) == (INPUTS, "first", "again")
    assert replay.first.provenance == SAMPLE
    assert replay.differences == {"answer": ("first", "again")}


@pytest.mark.parametrize("state", [None, "PENDING", "RETRY"])
def test_what_has_no_result_is_not_asked_again(state: str | None, asks: Asked) -> None:
    if state:
        asks.fleet.app.backend.store_result("first", None, state)
    with pytest.raises(BridgeError, match="Prediction first has no result to replay"):
        asks.fleet.replay("first")
    assert asks.seen == []


def test_what_failed_is_told_and_not_asked_again(asks: Asked) -> None:
    asks.fleet.app.backend.store_result("first", ZeroDivisionError("division by zero"), "FAILURE")
    with pytest.raises(PredictionFailedError, match="division by zero"):
        asks.fleet.replay("first")
    assert asks.seen == []


def test_a_repetition_is_waited_for_within_bounds(asks: Asked) -> None:
    asks.finish("first", answer="first")
    asks.outputs = None
    with pytest.raises(PredictionTimeoutError) as raised:
        asks.fleet.replay("first", timeout=1.5)
    assert (raised.value.task_id, raised.value.waited_s) == ("again", 1.5)
