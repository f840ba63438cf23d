"""What a worker's watchdog concludes from the worker's reports and the beats of its processes."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import Any

import pytest

from config.settings import FleetSettings
from workers.health.worker_probes import WorkerProbes
from workers.health.worker_report import WorkerReport
from workers.watchdog import beats
from workers.watchdog.beats import SharedStatus


class Monitor:
    """Stands for the monitor of a worker in whose processes nothing hangs."""

    pid = 1
    is_stopping = False

    def describe_stall(self) -> str:
        return ""


@pytest.fixture
def status() -> SharedStatus:
    return SharedStatus()


@pytest.fixture
def probes(status: SharedStatus) -> WorkerProbes:
    monitor: Any = Monitor()
    return WorkerProbes(SimpleNamespace(settings=FleetSettings.model_validate({})), monitor, status)


def report(status: SharedStatus, *, age_s: float = 0.0, **facts: Any) -> None:
    status.set_report(WorkerReport(time.monotonic() - age_s, **facts).encode())


def problems(found: Any) -> dict[str, str]:
    return {name: text for name, text in found.items() if text}


def test_a_worker_that_has_not_reported_is_alive_and_starting(probes: WorkerProbes) -> None:
    assert problems(probes.live()) == {}
    assert problems(probes.started()) == problems(probes.ready()) == {"startup": "the worker isn't ready yet"}


def test_a_worker_that_lacks_nothing_is_ready(probes: WorkerProbes, status: SharedStatus) -> None:
    report(status)
    assert problems({**probes.live(), **probes.ready(), **probes.started()}) == {}


@pytest.mark.parametrize(
    ("facts", "check"),
    [
        ({"is_stopping": True}, "shutdown"),
        ({"has_profiles": False}, "lm_profiles"),
        ({"is_warm": False}, "programs"),
        ({"forks": True}, "programs"),
        ({"broker_problem": "away"}, "broker"),
    ],
)
def test_a_lack_of_readiness_is_named_and_no_reason_for_a_restart(
    probes: WorkerProbes, status: SharedStatus, facts: dict[str, Any], check: str
) -> None:
    report(status, **facts)
    assert problems(probes.ready()).keys() == {check}
    assert problems(probes.live()) == {}


def test_a_worker_that_forks_is_warm_once_a_child_is(probes: WorkerProbes, status: SharedStatus) -> None:
    report(status, forks=True, is_warm=False)
    status.register(os.getpid(), 20.0)
    assert problems(probes.ready()) == {}


@pytest.mark.parametrize(
    ("age_s", "silent_s", "problem"),
    [
        (4.0, 29.0, ""),
        (6.0, 0.0, "no thread of the worker has run for 6 s"),
        (0.0, 31.0, "it hasn't run for 31 s"),
    ],
)
def test_a_lease_keeper_that_does_not_run_is_named(
    probes: WorkerProbes, status: SharedStatus, age_s: float, silent_s: float, problem: str
) -> None:
    report(status, age_s=age_s, keeper_silent_s=silent_s)
    assert probes.live()["lease_keeper"] == problem


def test_only_a_queue_in_which_messages_wait_counts_and_none_while_it_shuts_down(
    probes: WorkerProbes, status: SharedStatus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(WorkerProbes, "_count_waiting", lambda self, queue: {"full": 3}.get(queue, 0))
    report(status, idle_queues=("empty", "full"))
    probes._consumer_problem = probes._ask_queues()
    assert problems(probes.ready()) == {"consumer": "it takes nothing from 'full', messages waiting there: 3"}
    report(status, idle_queues=("empty", "full"), is_stopping=True)
    assert problems(probes.ready()).keys() == {"shutdown"}


def test_a_report_that_is_half_written_or_too_long_leaves_the_last_one(status: SharedStatus) -> None:
    assert status.read_report() is None
    status.set_report(b"one")
    status.set_report(b"x" * 100_000)
    assert status.read_report() == b"one"
    status.set_report(b"two")
    status._memory[beats._REPORT_AT + beats._REPORT.size] = 0
    assert status.read_report() == b"one"


def test_a_report_is_read_as_it_was_written() -> None:
    written = WorkerReport(1.5, is_stopping=True, broker_problem="away", idle_queues=("a", "b"))
    assert WorkerReport.decode(written.encode()) == written
