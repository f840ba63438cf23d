"""What is recorded of messages and predictions, whatever their senders have written into the headers."""

from __future__ import annotations

from typing import Any

import pytest
from celery.states import FAILURE, IGNORED, REVOKED, SUCCESS

from snakepit_bridge.exceptions import PredictionFailedError
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.meter import Labels, Meter
from snakepit_bridge.telemetry.metrics import IN_FLIGHT, LATENCY, PREDICTIONS, PROCESS_DURATION, Metric
from tasks import telemetry


class Recorded(Meter):
    """A meter that keeps what is recorded, and refuses labels that its metric doesn't have."""

    enabled = True

    def __init__(self) -> None:
        self.values: list[tuple[str, float, dict[str, str]]] = []

    def add(self, metric: Metric, amount: float = 1, labels: Labels = {}) -> None:  # noqa: B006
        self.record(metric, amount, labels)

    def record(self, metric: Metric, value: float, labels: Labels = {}) -> None:  # noqa: B006
        assert labels.keys() <= {*metric.labels, *metric.optional}, (metric.name, labels)
        assert set(metric.labels) <= labels.keys() | {"error.type"}, (metric.name, labels)
        self.values.append((metric.name, value, dict(labels)))

    def of(self, metric: Metric) -> list[tuple[float, dict[str, str]]]:
        return [(value, labels) for name, value, labels in self.values if name == metric.name]


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Recorded:
    meter = Recorded()
    monkeypatch.setattr(TELEMETRY, "meter", meter)
    return meter


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
def test_recording_never_fails_whatever_the_headers_hold(meter: Recorded, headers: dict[str, Any]) -> None:
    with telemetry.record_processing("tasks.predict", "id", headers):
        telemetry.record_commit(SUCCESS, {})
    assert [value for value, _ in meter.of(IN_FLIGHT)] == [1, -1]
    assert len(meter.of(PREDICTIONS)) == 1


def test_a_task_that_is_stopped_leaves_none_in_flight(meter: Recorded) -> None:
    with pytest.raises(GeneratorExit), telemetry.record_processing("tasks.predict", "id", {}):
        raise GeneratorExit
    assert sum(value for value, _ in meter.of(IN_FLIGHT)) == 0
    assert [labels["error.type"] for _, labels in meter.of(PROCESS_DURATION)] == ["GeneratorExit"]


def test_a_delivery_that_is_parked_or_done_already_has_no_duration(meter: Recorded) -> None:
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
    meter: Recorded, state: str, encoded: Any, outcome: str, error_type: str
) -> None:
    with telemetry.record_processing("tasks.predict", "id", {"sent_at": 1.0}):
        telemetry.record_binding("user-1", "1.2", "qa", 3)
        telemetry.record_commit(state, encoded)
    [(_, labels)] = meter.of(PREDICTIONS)
    assert labels == {
        "dspex.program": "qa", "dspex.session": "user-1", "dspex.token": "1.2", "dspex.outcome": outcome,
        "error.type": error_type,
    }  # fmt: skip


@pytest.mark.parametrize("state", ["RETRY", "STARTED", "PENDING"])
def test_a_state_that_is_not_final_is_no_end(meter: Recorded, state: str) -> None:
    telemetry.record_commit(state, {})
    assert not meter.of(PREDICTIONS)


def test_an_end_before_its_program_was_found_has_no_name_of_a_senders_choosing(meter: Recorded) -> None:
    with telemetry.record_processing("tasks.predict", "id", {"program": "chosen by a sender"}):
        telemetry.record_commit(FAILURE, {"exc_type": PredictionFailedError.__name__})
    [(_, labels)] = meter.of(PREDICTIONS)
    assert labels["dspex.program"] == telemetry.UNKNOWN


def test_inputs_of_a_batch_count_for_themselves(meter: Recorded) -> None:
    with telemetry.record_processing("tasks.predict_batch", "batch", {}):
        telemetry.record_binding("user-1", "1.2", "qa", 3)
        for number in range(3):
            with telemetry.record_input(f"id-{number}", "qa@prod", 1, "predictions", 1.0):
                telemetry.record_commit(SUCCESS, {})
    assert [labels["dspex.program"] for _, labels in meter.of(PREDICTIONS)] == ["qa"] * 3
    assert len(meter.of(LATENCY)) == 3
