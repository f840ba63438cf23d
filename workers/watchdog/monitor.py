"""The process that monitors a worker and kills it if it hangs.

It shares memory with the worker. As an event loop stays blocked, it samples stacks to find the prediction at fault,
renews the worker's leases if the worker can't, reports the stall, and at the limit settles the worker's messages and
kills the process. Time is counted in its own ticks, so that neither a paused machine nor a worker stopped by a signal
counts.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Protocol

from snakepit_bridge.delivery.stalls import Stall
from workers.watchdog.beats import ProcessStatus, SharedStatus
from workers.watchdog.evidence import Culprit, Sample, find_culprit, is_progressing
from workers.watchdog.stacks import Stacks, find_busiest_thread, is_stopped

ENDED_BY = signal.SIGABRT
"""The signal that kills a hanging process: exit code 134 in a shell and in Docker, unlike that of the OOM killer."""

IGNORED_SIGNALS = frozenset({
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
})  # fmt: skip
"""Signals to the worker's process group, which the worker's watchdog outlives."""

TICK_S = 0.25
# Grace period between that signal and SIGKILL: where the machine is busy, a process takes a while to die.
_DEATH_S = 5.0
# After the grace period, a worker whose loop still runs gets this long to requeue its running tasks.
_HAND_BACK_S = 5.0
# A loop iteration that serves many predictions is slow, but none of them hangs: such a loop gets more time.
_OVERLOADED = 3.0
_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
_SAMPLES = 16
# Share of its limit after which a blocked event loop counts as unhealthy, some time before its process is killed.
_UNHEALTHY_SHARE = 0.25

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """What a monitor watches, and its time limits.

    Attributes:
        worker: the Celery node.
        pid: the worker's main process.
        lease_s: seconds blocked after which a stall is reported, and a worker that is shutting down is killed.
        heartbeat_s: seconds between two renewals of the worker's leases.
        grace_s: seconds from a shutdown signal until the worker is killed.
    """

    worker: str
    pid: int
    lease_s: float
    heartbeat_s: float
    grace_s: float


class Servers(Protocol):
    """The broker and Redis, as the watchdog uses them; ``workers.watchdog.servers`` has the real ones.

    Attributes:
        outages: what its methods raise if a server is unreachable.
    """

    @property
    def outages(self) -> tuple[type[Exception], ...]: ...

    def renew(self, holdings: list[str]) -> None:
        """Renew the worker's leases in place of its keeper."""
        ...

    def settle(self, holdings: list[str], who: Culprit | None, error: str, *, give_up: bool) -> None:
        """Requeue the worker's messages, and dead-letter the culprit's if it is given up."""
        ...

    def requeue_all(self, holdings: list[str]) -> None:
        """Requeue all messages of the worker as if they had never been delivered."""
        ...

    def dead_letter(self, holdings: list[str], who: Culprit, error: str) -> None:
        """Dead-letter one prediction and leave everything else as it is."""
        ...

    def report_stall(self, stall: Stall) -> None:
        """Report that a process is blocked, or was killed for it."""
        ...

    def clear_stall(self, worker: str, pid: int) -> None:
        """Clear a process's stall, once its loop runs again."""
        ...


@dataclass(slots=True)
class _ProcessState:
    """The monitor's record of one process."""

    beat: ProcessStatus
    stalled_s: float = 0.0
    gil_blocked_s: float = 0.0
    renewed_s: float = 0.0
    sampled_s: float = 0.0
    reported: bool = False
    named: bool = False
    used: dict[int, int] = field(default_factory=dict[int, int])
    samples: deque[Sample] = field(default_factory=lambda: deque[Sample](maxlen=_SAMPLES))

    def update(self, now: ProcessStatus, elapsed_s: float) -> bool:
        """Record the process's current state; return whether its loop has run since."""
        self.gil_blocked_s = 0.0 if now.alive != self.beat.alive else self.gil_blocked_s + elapsed_s
        turned = now.turns != self.beat.turns
        if turned:
            self.stalled_s = self.renewed_s = self.sampled_s = 0.0
            self.used = {}
            self.samples.clear()
        else:
            self.stalled_s += elapsed_s
        self.beat = now
        return turned


class Monitor:
    """Watches one worker and the processes that it forks, until the worker has exited.

    Args:
        settings: what to watch.
        status: the shared state of the processes.
        stacks: captures the processes' stacks.
        signals: a pipe that gets the number of each signal that the worker receives, and is closed when it exits.
        connect: returns the servers; called when they are first needed.
    """

    def __init__(
        self,
        settings: MonitorSettings,
        status: SharedStatus,
        stacks: Stacks,
        signals: int,
        connect: Callable[[], Servers],
    ) -> None:
        self._settings = settings
        self._status = status
        self._stacks = stacks
        self._signals = signals
        self._connect = connect
        self._processes: dict[int, _ProcessState] = {}
        self._ending_s: float | None = None
        self._handing_back = False

    @property
    def pid(self) -> int:
        """The worker's main process."""
        return self._settings.pid

    @property
    def is_stopping(self) -> bool:
        """Whether the worker has received a signal to shut down."""
        return self._ending_s is not None

    def describe_stall(self, max_limit_s: float) -> str:
        """Describe a process whose event loop has been blocked for much of its limit; empty if there is none.

        Args:
            max_limit_s: processes with a longer limit, in seconds, don't count: they may compute that long.
        """
        for seen in list(self._processes.values()):
            limit_s = seen.beat.limit_s
            if limit_s <= max_limit_s and seen.stalled_s >= limit_s * _UNHEALTHY_SHARE:
                return f"process {seen.beat.pid} has been blocked for {seen.stalled_s:.0f} s"
        return ""

    def run(self) -> None:
        """Watch until the worker has exited."""
        at = time.monotonic()
        while self._wait_for_tick() and os.getppid() == self._settings.pid:
            before, at = at, time.monotonic()
            # A monitor that was paused itself has seen nothing in that time.
            self.tick(min(at - before, 2 * TICK_S))

    def tick(self, elapsed_s: float) -> None:
        """Check all processes once, ``elapsed_s`` after the last time."""
        beats = {beat.slot: beat for beat in self._status}
        for slot, beat in beats.items():
            seen = self._processes.get(slot)
            if seen is None or seen.beat.pid != beat.pid:
                self._processes[slot] = _ProcessState(beat)
            elif not _is_running(beat.pid):
                self._status.unregister(slot)
            else:
                self._check(seen, beat, elapsed_s)
        for slot in self._processes.keys() - beats.keys():
            del self._processes[slot]
        self._enforce_shutdown(elapsed_s)

    def _wait_for_tick(self) -> bool:
        """Wait for a tick and read the worker's signals; return False if the worker has exited."""
        poller = select.poll()  # select() is limited to descriptors below 1,024
        poller.register(self._signals, select.POLLIN)
        if not poller.poll(TICK_S * 1000):
            return True
        received = os.read(self._signals, 64)
        if any(number in _ENDING for number in received) and self._ending_s is None:
            self._ending_s = 0.0
        return bool(received)

    # ------------------------------------------------------------------ one process

    def _check(self, seen: _ProcessState, beat: ProcessStatus, elapsed_s: float) -> None:
        if seen.update(beat, elapsed_s):
            if seen.reported:
                seen.reported = seen.named = False
                _log.warning("The event loop of process %d has recovered", beat.pid)
                worker = self._settings.worker
                self._use_servers("clear the stall", lambda servers: servers.clear_stall(worker, beat.pid))
            return
        main = beat.pid == self._settings.pid
        if seen.stalled_s < min(self._settings.heartbeat_s, beat.limit_s / 5):
            return
        if is_stopped(beat.pid):
            seen.stalled_s = seen.gil_blocked_s = 0.0
            return
        if main:
            self._renew(seen)
        self._sample(seen)
        # A child process runs a single prediction: while it computes, it harms no other.
        if main and seen.stalled_s >= self._settings.lease_s and self._should_report(seen):
            self._report(seen, "is stalled")
        limit_s = self._limit_s(beat)
        if seen.stalled_s >= (limit_s * _OVERLOADED if is_progressing(seen.samples) else limit_s):
            self._end_process(seen)

    def _should_report(self, seen: _ProcessState) -> bool:
        """Check whether to report a stall: once, and again once the culprit is known."""
        who = find_culprit(seen.samples)
        known, before = who is not None, (seen.reported, seen.named)
        seen.reported, seen.named = True, seen.named or known
        return before != (True, seen.named)

    def _limit_s(self, beat: ProcessStatus) -> float:
        """Return the time limit, which is shorter for a worker that is shutting down."""
        if self._ending_s is None or beat.pid != self._settings.pid:
            return beat.limit_s
        return min(self._settings.lease_s, beat.limit_s)

    def _renew(self, seen: _ProcessState) -> None:
        """Renew the worker's leases if its keeper can't, since a task's code holds the GIL."""
        if seen.gil_blocked_s < self._settings.heartbeat_s:
            return
        if seen.stalled_s - seen.renewed_s >= self._settings.heartbeat_s:
            seen.renewed_s = seen.stalled_s
            holders = self._status.lease_holders
            self._use_servers("renew the worker's leases", lambda servers: servers.renew(holders))

    def _sample(self, seen: _ProcessState) -> None:
        between_s = min(seen.beat.limit_s / 20, self._settings.lease_s / 4)
        if seen.stalled_s - seen.sampled_s < max(between_s, 2 * TICK_S):
            return
        seen.sampled_s = seen.stalled_s
        thread = seen.beat.thread
        busy, seen.used = find_busiest_thread(seen.beat.pid, seen.used)
        if seen.gil_blocked_s >= 2 * TICK_S:
            # The loop may be waiting for the GIL in other code. The thread that holds the GIL is the one that computes.
            if busy is None:
                return
            thread = busy
        seen.samples.append(Sample.parse(self._stacks.capture(seen.beat.pid, thread)))

    # ------------------------------------------------------------------ the end of one

    def _end_process(self, seen: _ProcessState) -> None:
        pid, who = seen.beat.pid, find_culprit(seen.samples)
        error = self._report(seen, "is killed")
        give_up = seen.stalled_s >= seen.beat.limit_s
        # Stop it first: it must not continue with messages that are redelivered.
        _kill(pid, signal.SIGSTOP)
        self._settle(pid, who, error, give_up=give_up)
        ended = self._stall(seen, who, ended=True)
        self._use_servers("report the stall", lambda servers: servers.report_stall(ended))
        _kill(pid, ENDED_BY)
        _kill(pid, signal.SIGCONT)
        if _survives(pid, _DEATH_S):
            _kill(pid, signal.SIGKILL)
        seen.stalled_s = 0.0

    def _settle(self, pid: int, who: Culprit | None, error: str, *, give_up: bool) -> None:
        holders = self._status.lease_holders

        def settle(servers: Servers) -> None:
            if pid == self._settings.pid:
                servers.settle(holders, who, error, give_up=give_up)
            elif who is not None:
                servers.dead_letter(holders, who, error)

        self._use_servers("settle the worker's messages", settle)

    def _report(self, seen: _ProcessState, what: str) -> str:
        """Log and report the stall of a process; return the error text for the prediction at fault."""
        who = find_culprit(seen.samples)
        place = who.place if who is not None else next((sample.place for sample in reversed(seen.samples)), "")
        whose = f", in prediction {who.prediction}" if who is not None else ""
        where = f" at {place}" if place else ""
        _log.error(
            "The event loop of process %d has been blocked for %.0f s%s%s; the process %s",
            seen.beat.pid, seen.stalled_s, whose, where, what,
        )  # fmt: skip
        stall = self._stall(seen, who, ended=False)
        self._use_servers("report the stall", lambda servers: servers.report_stall(stall))
        return (
            f"its code blocked its worker for {seen.stalled_s:.0f} s{where}; use await for blocking calls, or register "
            f"the program with executes_code=True, which runs it in its own process"
        )

    def _stall(self, seen: _ProcessState, who: Culprit | None, *, ended: bool) -> Stall:
        now, place = time.time(), next((sample.place for sample in reversed(seen.samples)), "")
        return Stall(
            self._settings.worker,
            seen.beat.pid,
            round(now - seen.stalled_s, 3),
            place,
            who.prediction if who is not None else "",
            round(now, 3) if ended else 0.0,
        )

    # ------------------------------------------------------------------ the end of all

    def _enforce_shutdown(self, elapsed_s: float) -> None:
        """Make a worker that doesn't shut down in time requeue its running tasks, then kill it."""
        if self._ending_s is None or is_stopped(self._settings.pid):
            return
        self._ending_s += elapsed_s
        if self._ending_s >= self._settings.grace_s and not self._handing_back:
            self._handing_back = True
            _log.warning(
                "Shutdown took longer than %g s, asking the worker to requeue its running tasks", self._settings.grace_s
            )
            _kill(self._settings.pid, signal.SIGQUIT)
        if self._ending_s >= self._settings.grace_s + _HAND_BACK_S:
            _log.error("The worker doesn't shut down, killing its processes")
            holders = self._status.lease_holders
            self._use_servers("settle the worker's messages", lambda servers: servers.requeue_all(holders))
            for pid in {beat.pid for beat in self._status} | {self._settings.pid}:
                _kill(pid, signal.SIGKILL)

    # ------------------------------------------------------------------ servers

    @cached_property
    def _servers(self) -> Servers:
        return self._connect()

    def _use_servers(self, what: str, use: Callable[[Servers], None]) -> None:
        """Do something that needs the servers. Log a failure, and continue: the process is killed in any case."""
        outages: tuple[type[Exception], ...] = ()
        try:
            servers = self._servers
            outages = servers.outages
            use(servers)
        except outages as exc:
            _log.error("The watchdog can't %s: %s", what, exc)
        except Exception:  # noqa: BLE001 (a hanging worker is killed, whatever else fails)
            _log.exception("The watchdog can't %s", what)


def _survives(pid: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if not _is_running(pid):
            return False
        time.sleep(0.02)
    return True


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def _kill(pid: int, sign: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, sign)
