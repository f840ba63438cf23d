"""What the monitor does, and when, as an event loop goes on standing still."""

from __future__ import annotations

import fcntl
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Generator
from typing import Any

import pytest

from snakepit_bridge.delivery.stalls import Stall
from workers.watchdog import monitor as module
from workers.watchdog.beats import SharedStatus
from workers.watchdog.evidence import Culprit
from workers.watchdog.monitor import TICK_S, Monitor, MonitorSettings

STACK = '  File "/srv/acme/rules.py", line 26 in check\n  File "/srv/f.py", line 2 in prediction poison\n'


class Stacks:
    """Stands for the stacks: says the next of some, and the last one for ever."""

    def __init__(self, *stacks: str) -> None:
        self.said = list(stacks)

    def capture(self, pid: int, thread: int) -> str:
        return self.said.pop(0) if len(self.said) > 1 else self.said[0]


class Servers:
    """Stands for the servers: remembers what became of the messages, and what was reported."""

    outages = (OSError,)

    def __init__(self) -> None:
        self.done: list[Any] = []
        self.told: list[Stall | str] = []

    def renew(self, holdings: list[str]) -> None:
        self.done.append("renew")

    def settle(self, holdings: list[str], who: Culprit | None, error: str, *, give_up: bool) -> None:
        self.done.append((who, give_up))

    def requeue_all(self, holdings: list[str]) -> None:
        self.done.append("give back")

    def dead_letter(self, holdings: list[str], who: Culprit, error: str) -> None:
        self.done.append(("give up", who.prediction))

    def report_stall(self, stall: Stall) -> None:
        self.told.append(stall)

    def clear_stall(self, worker: str, pid: int) -> None:
        self.told.append("over")


class Play:
    """A worker that is watched, for which a real process stands."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pid: int, *stacks: str, main: bool = True) -> None:
        self.beats, self.servers = SharedStatus(), Servers()
        self.ended: list[tuple[int, signal.Signals]] = []
        self.connected = 0
        monkeypatch.setattr(module, "_kill", lambda pid, sign: self.ended.append((pid, sign)))
        monkeypatch.setattr(module, "_survives", lambda pid, seconds: False)
        monkeypatch.setattr(os, "getpid", lambda: pid)
        self.slot = self.beats.register(pid, 10.0)
        watch = MonitorSettings("worker@host", pid if main else os.getppid(), 4.0, 1.0, 30.0)
        written: Any = Stacks(*stacks or (STACK,))
        self.monitor = Monitor(watch, self.beats, written, -1, self.connect)
        self.monitor.tick(TICK_S)

    def connect(self) -> Servers:
        self.connected += 1
        return self.servers

    def stand(self, seconds: float, *, alive: bool = True) -> None:
        for number in range(round(seconds / TICK_S)):
            if alive:
                self.beats.set_alive(self.slot, 1_000 + number)
            self.monitor.tick(TICK_S)


@pytest.fixture
def pid() -> Generator[int]:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        yield process.pid
        process.kill()


def test_a_loop_that_turns_is_let_alone(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    play = Play(monkeypatch, pid)
    for turns in range(1, 60):
        play.beats.set_turns(play.slot, turns)
        play.stand(0.5)
    assert (play.servers.done, play.servers.told, play.ended, play.connected) == ([], [], [], 0)


def test_it_is_reported_after_a_lease_and_that_it_goes_on_too(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    play = Play(monkeypatch, pid)
    play.stand(3.75)
    assert play.servers.told == []
    play.stand(0.5)
    [stall] = play.servers.told
    assert isinstance(stall, Stall)
    assert (stall.task_id, stall.place) == ("poison", "check (/srv/acme/rules.py, line 26)")
    play.beats.set_turns(play.slot, 1)
    play.stand(0.25)
    assert play.servers.told[1:] == ["over"]
    assert play.ended == []


def test_it_is_unhealthy_for_much_of_its_limit_and_healthy_once_it_turns(
    monkeypatch: pytest.MonkeyPatch, pid: int
) -> None:
    play = Play(monkeypatch, pid)
    play.stand(2.25)
    assert play.monitor.describe_stall(10.0) == ""
    play.stand(0.25)
    assert play.monitor.describe_stall(10.0) == f"process {pid} has been blocked for 2 s"
    assert play.monitor.describe_stall(9.0) == ""
    play.beats.set_turns(play.slot, 1)
    play.stand(0.25)
    assert play.monitor.describe_stall(10.0) == ""
    assert (play.monitor.pid, play.monitor.is_stopping) == (pid, False)


def test_at_its_limit_the_culprit_is_given_up_and_the_process_ended(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    play = Play(monkeypatch, pid)
    play.stand(10)
    assert play.servers.done == [(Culprit("poison", "poison", "check (/srv/acme/rules.py, line 26)"), True)]
    assert play.ended == [(pid, signal.SIGSTOP), (pid, signal.SIGABRT), (pid, signal.SIGCONT)]
    assert isinstance(last := play.servers.told[-1], Stall)
    assert last.ended_at > 0


def test_where_stacks_differ_nobody_is_accused_and_there_is_more_time(
    monkeypatch: pytest.MonkeyPatch, pid: int
) -> None:
    play = Play(monkeypatch, pid, *(STACK.replace("poison", f"p{number}") for number in range(100)))
    play.stand(29.5)
    assert play.ended == []
    play.stand(1)
    assert play.servers.done == [(None, True)]
    assert play.ended


def test_what_is_held_is_renewed_while_the_lock_is_held(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    monkeypatch.setattr(module, "find_busiest_thread", lambda pid, used: (pid, used))
    play = Play(monkeypatch, pid)
    play.stand(5, alive=False)
    assert play.servers.done == ["renew"] * 5


def test_the_time_of_a_worker_that_was_stopped_does_not_count(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    monkeypatch.setattr(module, "is_stopped", lambda pid: True)
    play = Play(monkeypatch, pid)
    play.stand(60, alive=False)
    assert (play.servers.done, play.servers.told, play.ended) == ([], [], [])


def test_a_child_is_ended_with_its_prediction_alone(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    play = Play(monkeypatch, pid, main=False)
    play.stand(10)
    assert play.servers.done == [("give up", "poison")]
    assert (pid, signal.SIGABRT) in play.ended


def test_a_worker_that_is_to_end_and_hangs_waits_for_a_lease_alone(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    play = Play(monkeypatch, pid)
    play.monitor._ending_s = 0.0
    play.stand(4)
    assert play.servers.done == [(Culprit("poison", "poison", "check (/srv/acme/rules.py, line 26)"), False)]


def test_a_worker_that_does_not_end_hands_back_and_is_killed_then(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    play = Play(monkeypatch, pid)
    play.monitor._ending_s = 0.0
    for turns in range(1, 61):
        play.beats.set_turns(play.slot, turns)
        play.stand(0.5)
    assert play.ended == [(pid, signal.SIGQUIT)]
    for turns in range(61, 71):
        play.beats.set_turns(play.slot, turns)
        play.stand(0.5)
    assert play.ended[1:] == [(pid, signal.SIGKILL)]
    assert play.servers.done == ["give back"]


def test_signals_are_heard_by_a_descriptor_of_any_number(monkeypatch: pytest.MonkeyPatch, pid: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2_000:
        pytest.skip("the system lets a process have no 2,000 files")
    reading, writing = os.pipe()
    monkeypatch.setattr(module, "TICK_S", 0.01)
    play = Play(monkeypatch, pid, "")
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2_000), hard))
        high = fcntl.fcntl(reading, fcntl.F_DUPFD, 1_500)
        play.monitor._signals = high
        os.write(writing, bytes([signal.SIGTERM]))
        assert play.monitor._wait_for_tick()
        assert play.monitor._ending_s == 0.0
        os.close(writing)
        assert not play.monitor._wait_for_tick()
        os.close(high)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        os.close(reading)
