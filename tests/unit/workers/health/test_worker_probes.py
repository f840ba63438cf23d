"""What a worker's watchdog concludes from the worker's reports and the beats of its processes."""

from __future__ import annotations

import logging
import os
import time
from types import SimpleNamespace
from typing import Any

import pytest
from amqp.exceptions import ConnectionForced
from kombu.connection import Connection

from config.settings import FleetSettings
from workers.health import reporter as reporter_module
from workers.health.reporter import Reporter
from workers.health.worker_probes import MAX_ANSWER_AGE_S, WorkerProbes
from workers.health.worker_report import WorkerReport
from workers.watchdog import beats
from workers.watchdog.beats import MAX_REPORT_BYTES, SharedStatus


class Monitor:
    """Stands for the monitor of a worker in whose processes nothing hangs."""

    pid = 1
    is_stopping = False

    def describe_stall(self, max_limit_s: float) -> str:
        return ""


@pytest.fixture
def status() -> SharedStatus:
    return SharedStatus()


@pytest.fixture
def probes(status: SharedStatus) -> WorkerProbes:
    monitor: Any = Monitor()
    return WorkerProbes(FleetSettings.model_validate({}), monitor, status, Connection)


def report(status: SharedStatus, *, age_s: float = 0.0, **facts: Any) -> None:
    status.set_report(WorkerReport(time.monotonic() - age_s, **facts).encode(MAX_REPORT_BYTES))


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
        ({"newer_release": "a message has version 2"}, "release"),
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
    assert WorkerReport.decode(written.encode(MAX_REPORT_BYTES)) == written


def test_a_report_leaves_out_the_idle_queues_that_do_not_fit(status: SharedStatus) -> None:
    report(status, idle_queues=tuple(f"queue-{number:04}" for number in range(5_000)))
    read = status.read_report()
    assert read is not None
    assert WorkerReport.decode(read).idle_queues[:2] == ("queue-0000", "queue-0001")


@pytest.mark.parametrize(("limit_s", "checks"), [(20.0, {"lease_keeper"}), (2_880.0, set[str]())])
def test_a_worker_that_computes_alone_may_hold_the_gil_and_is_not_ready(
    probes: WorkerProbes, status: SharedStatus, monkeypatch: pytest.MonkeyPatch, limit_s: float, checks: set[str]
) -> None:
    monkeypatch.setattr(Monitor, "pid", os.getpid())
    report(status, age_s=60.0)
    status.register(1, limit_s)
    assert problems(probes.live()).keys() == checks
    assert problems(probes.ready()).keys() == {"lease_keeper"}


def test_any_error_of_a_server_is_logged_once_and_the_next_round_asks_again(
    probes: WorkerProbes, status: SharedStatus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise ConnectionForced("the broker shuts down")

    answers = iter(["", "it doesn't answer: OSError"])
    monkeypatch.setattr(WorkerProbes, "_count_waiting", refuse)
    monkeypatch.setattr(WorkerProbes, "_ask_store", lambda self: next(answers))
    report(status, idle_queues=("full",))
    with caplog.at_level(logging.WARNING):
        probes._ask()
        assert problems(probes.ready()) == {}
        probes._ask()
        assert problems(probes.ready()) == {"store": "it doesn't answer: OSError"}
        probes._ask()  # which has no answer left
    assert problems(probes.ready()) == {"store": "it can't be checked"}
    assert caplog.text.count("The messages that wait can't be counted; retrying") == 1


def test_answers_grow_out_of_date(probes: WorkerProbes, status: SharedStatus) -> None:
    report(status)
    probes._asked_at = time.monotonic() - MAX_ANSWER_AGE_S - 10
    assert problems(probes.ready()) == {"store": "it hasn't been asked for 40 s"}
    assert problems(probes.live()) == {}


class _Ended(BaseException):
    """Ends the thread of a reporter."""


def test_a_worker_that_cannot_determine_its_state_is_alive_and_not_ready(
    probes: WorkerProbes, status: SharedStatus, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    consumer: Any = SimpleNamespace(app=SimpleNamespace(amqp=SimpleNamespace(queues=SimpleNamespace(consume_from={}))))
    rounds = iter([None, None])

    def pause(seconds: float) -> None:
        if next(rounds, _Ended) is _Ended:
            raise _Ended

    monkeypatch.setattr(reporter_module.time, "sleep", pause)
    with caplog.at_level(logging.WARNING), pytest.raises(_Ended):
        Reporter(consumer, forks=False)._run(status)  # whose app has no slot
    assert problems(probes.live()) == problems(probes.started()) == {}
    assert problems(probes.ready()) == {"report": "the worker can't determine its state; see its log"}
    assert caplog.text.count("The worker can't determine its health; retrying") == 1
