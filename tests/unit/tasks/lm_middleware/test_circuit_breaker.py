"""A profile's circuit: open after failures in a row, tried again by one call, closed by its success."""

from __future__ import annotations

import pytest

from snakepit_bridge.lm.policies import CircuitPolicy
from tasks.lm_middleware.circuit_breaker import Circuit, CircuitOpenError


class Clock:
    """The seconds that the circuit sees."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("tasks.lm_middleware.circuit_breaker.time.monotonic", clock)
    return clock


def opened(failures: int = 3) -> Circuit:
    circuit = Circuit("smart", CircuitPolicy(failures, open_s=10))
    for _ in range(failures):
        circuit.acquire()
        circuit.record_failure()
    return circuit


def test_failures_in_a_row_open_it(clock: Clock) -> None:
    circuit = opened()
    with pytest.raises(CircuitOpenError, match="profile 'smart' failed too often") as refused:
        circuit.acquire()
    assert 10 <= (refused.value.retry_after or 0) <= 12.5


def test_a_success_in_between_starts_the_count_again(clock: Clock) -> None:
    circuit = Circuit("smart", CircuitPolicy(2, open_s=10))
    for _ in range(5):
        circuit.acquire()
        circuit.record_failure()
        circuit.acquire()
        circuit.record_success()
    assert circuit.is_closed
    circuit.acquire()
    circuit.record_failure()
    circuit.acquire()
    circuit.record_failure()
    assert not circuit.is_closed


def test_after_its_time_one_call_alone_tries(clock: Clock) -> None:
    circuit = opened()
    clock.now += 11
    circuit.acquire()
    with pytest.raises(CircuitOpenError):
        circuit.acquire()
    circuit.record_success()
    for _ in range(5):
        circuit.acquire()


def test_a_probe_that_fails_opens_it_for_as_long_again(clock: Clock) -> None:
    circuit = opened()
    clock.now += 11
    circuit.acquire()
    circuit.record_failure()
    clock.now += 9
    with pytest.raises(CircuitOpenError):
        circuit.acquire()
    clock.now += 2
    circuit.acquire()


def test_a_probe_that_is_cancelled_leaves_the_next_call_to_try(clock: Clock) -> None:
    circuit = opened()
    clock.now += 11
    circuit.acquire()
    circuit.release()
    circuit.acquire()
    circuit.record_success()
    assert circuit.is_closed


def test_a_straggler_from_before_it_opened_changes_nothing(clock: Clock) -> None:
    circuit = opened()
    circuit.record_success()
    circuit.record_failure()
    assert not circuit.is_closed


def test_an_operator_is_told_when_it_opens_and_closes(clock: Clock, caplog: pytest.LogCaptureFixture) -> None:
    circuit = opened()
    clock.now += 11
    circuit.acquire()
    circuit.record_success()
    assert [line.partition(";")[0] for line in caplog.messages] == [
        "Circuit of LM profile 'smart' opened after repeated failures",
        "Circuit of LM profile 'smart' closed",
    ]


def test_it_can_be_switched_off(clock: Clock) -> None:
    circuit = opened(0)
    for _ in range(100):
        circuit.acquire()
        circuit.record_failure()
    assert circuit.is_closed
    circuit.acquire()
