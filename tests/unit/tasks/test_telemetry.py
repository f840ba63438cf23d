"""What is recorded of messages and predictions, whatever their senders have written into the headers."""

from __future__ import annotations

import time
from collections.abc import Generator
from typing import Any

import pytest
from celery.states import FAILURE, IGNORED, REVOKED, SUCCESS

from snakepit_bridge.exceptions import PredictionFailedError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import MemoryStore
from snakepit_bridge.snapshots.freshness import ServedSnapshot
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.telemetry.metrics import (
    IN_FLIGHT,
    LATENCY,
    MESSAGES_CONSUMED,
    PREDICTIONS,
    PROCESS_DURATION,
    PROGRAM_DURATION,
    REVISION_AGE,
    STALENESS,
    START_LATENCY,
)
from tasks import telemetry
from tasks.requests import Delivery
from tasks.subject import UNKNOWN
from tests.harness.meter import RecordedMeter, recorded_meter


@pytest.fixture
def meter() -> Generator[RecordedMeter]:
    with recorded_meter() as meter:
        yield meter


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"retries": "x", "properties": "y", "delivery_info": [1]},
        {"retries": [1], "properties": {"deliveries": "many"}, "delivery_info": {"routing_key": 7}},
        {"retries": 1e999, "dspex_sent_at": "yesterday", "sent_at": {}, "traceparent": {"a": 1}},
        {"retries": -1, "properties": {"deliveries": 10**30}, "dspex_program": ["p"]},
    ],
)
def test_recording_never_fails_whatever_the_headers_hold(meter: RecordedMeter, headers: dict[str, Any]) -> None:
    with telemetry.record_processing("tasks.predict", "id", headers):
        telemetry.record_commit("t-1", SUCCESS, {})
    assert [value for value, _ in meter.of(IN_FLIGHT)] == [1, -1]
    assert len(meter.of(PREDICTIONS)) == 1


def test_a_task_that_is_stopped_leaves_none_in_flight(meter: RecordedMeter) -> None:
    with pytest.raises(GeneratorExit), telemetry.record_processing("tasks.predict", "id", {}):
        raise GeneratorExit
    assert sum(value for value, _ in meter.of(IN_FLIGHT)) == 0
    assert [labels["error.type"] for _, labels in meter.of(PROCESS_DURATION)] == ["GeneratorExit"]


def test_a_delivery_that_is_parked_or_done_already_has_no_duration(meter: RecordedMeter) -> None:
    with telemetry.record_processing("tasks.predict", "id", {}) as processing:
        processing.end(IGNORED, RuntimeError())
    assert not meter.of(PROCESS_DURATION)
    assert sum(value for value, _ in meter.of(IN_FLIGHT)) == 0


@pytest.mark.parametrize(
    ("state", "encoded", "outcome", "error_type"),
    [
        (SUCCESS, {"exc_type": "an output of this name"}, "ok", ""),
        (FAILURE, {"exc_type": "LMUnavailableError"}, "failed", "LMUnavailableError"),
        (FAILURE, {"exc_type": "PredictionCancelledError"}, "cancelled", ""),
        (REVOKED, {"exc_type": "PredictionCancelledError"}, "cancelled", ""),
        (FAILURE, None, "failed", ""),
    ],
)
def test_an_end_is_counted_by_outcome_program_and_session(
    meter: RecordedMeter, state: str, encoded: Any, outcome: str, error_type: str
) -> None:
    with telemetry.record_processing("tasks.predict", "id", {"sent_at": 1.0}):
        telemetry.record_binding("user-1", "1.2", "qa", 3)
        telemetry.record_commit("t-1", state, encoded)
    [(_, labels)] = meter.of(PREDICTIONS)
    assert labels == {
        "dspex.program": "qa", "dspex.session": "user-1", "dspex.token": "1.2", "dspex.outcome": outcome,
        "error.type": error_type,
    }  # fmt: skip


@pytest.mark.parametrize("state", ["RETRY", "STARTED", "PENDING"])
def test_a_state_that_is_not_final_is_no_end(meter: RecordedMeter, state: str) -> None:
    telemetry.record_commit("t-1", state, {})
    assert not meter.of(PREDICTIONS)


def test_an_end_before_its_program_was_found_has_no_name_of_a_senders_choosing(meter: RecordedMeter) -> None:
    with telemetry.record_processing("tasks.predict", "id", {"program": "chosen by a sender"}):
        telemetry.record_commit("t-1", FAILURE, {"exc_type": PredictionFailedError.__name__})
    [(_, labels)] = meter.of(PREDICTIONS)
    assert labels["dspex.program"] == UNKNOWN


def test_inputs_of_a_batch_count_for_themselves(meter: RecordedMeter) -> None:
    with telemetry.record_processing("tasks.predict_batch", "batch", {}):
        telemetry.record_binding("user-1", "1.2", "qa", 3)
        for number in range(3):
            with telemetry.record_input(f"id-{number}", "qa@prod", 1, "predictions", 1.0):
                telemetry.record_commit("t-1", SUCCESS, {})
    assert [labels["dspex.program"] for _, labels in meter.of(PREDICTIONS)] == ["qa"] * 3
    assert len(meter.of(LATENCY)) == 3


@pytest.mark.parametrize(
    ("headers", "delivery"),
    [
        ({}, "first"),
        ({"retries": 2}, "retried"),
        ({"properties": {"deliveries": 2}}, "redelivered"),
        ({"retries": 1, "properties": {"deliveries": 3}}, "redelivered"),
        ({"delivery_info": {"redelivered": True}}, "redelivered"),
    ],
)
def test_a_delivery_is_counted_as_what_it_is(meter: RecordedMeter, headers: dict[str, Any], delivery: str) -> None:
    with telemetry.record_processing("tasks.predict", "id", headers):
        pass
    assert [labels["dspex.delivery"] for _, labels in meter.of(MESSAGES_CONSUMED)] == [delivery]


def start(published_at: float, *, sent_at: float = 0.0) -> None:
    snapshot = Snapshot("user-1", Token(1, 2), {}, 0.0, published_at=published_at)
    delivery = Delivery("id", "w@h", 1, sent_at=sent_at, priority=7)
    telemetry.record_start("qa", snapshot, ServedSnapshot(snapshot, 4.0), delivery, Replica(MemoryStore()))


def test_a_start_records_how_old_its_revision_is_and_how_long_it_waited(meter: RecordedMeter) -> None:
    start(time.time() - 60, sent_at=time.time() - 5)
    [(age_s, labels)], [(waited_s, _)] = meter.of(REVISION_AGE), meter.of(START_LATENCY)
    assert (60 <= age_s < 70, 5 <= waited_s < 15) == (True, True)
    assert labels == {"dspex.program": "qa", "dspex.session": "user-1"}
    assert [value for value, _ in meter.of(STALENESS)] == [4.0]


def test_a_start_under_a_revision_of_unknown_age_records_none(meter: RecordedMeter) -> None:
    start(0.0)
    assert not meter.of(REVISION_AGE)
    assert not meter.of(START_LATENCY)
    assert len(meter.of(STALENESS)) == 1


def test_a_programs_run_is_measured_however_it_ends(meter: RecordedMeter) -> None:
    with telemetry.record_program("qa"):
        pass
    with pytest.raises(KeyError), telemetry.record_program("qa"):
        raise KeyError("x")
    assert [labels for _, labels in meter.of(PROGRAM_DURATION)] == [
        {"gen_ai.agent.name": "qa", "error.type": ""},
        {"gen_ai.agent.name": "qa", "error.type": "KeyError"},
    ]
