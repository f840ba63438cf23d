"""The monitor: the process that watches a worker, and ends it where nothing in it can do that any more.

It is forked from the worker before that has threads, and shares its memory. What it does in this order, as an event
loop goes on standing still: look whose code that is; renew what the worker holds, where the worker can't; say so; and
at the limit settle what is held, and end the process. Time is counted in its own ticks, so that it doesn't count while
the machine stands still; nor does it count while the worker was stopped by a signal.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass, field

from kombu.exceptions import OperationalError
from redis.exceptions import RedisError

from snakepit_bridge.delivery.stalls import Stall, Stalls
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.process.home_loop import run_blocking
from workers.watchdog.beats import ProcessStatus, SharedStatus
from workers.watchdog.evidence import Culprit, Sample, find_culprit, is_progressing
from workers.watchdog.settling import ClaimSettlement
from workers.watchdog.stacks import Stacks, find_busiest_thread, is_stopped

ENDED_BY = signal.SIGABRT
"""The signal that ends a process which hangs: exit code 134 in a shell and in Docker, never that of a full memory."""

TICK_S = 0.25
# The watched process is given so long to end by its signal.
_DEATH_S = 1.0
# After the time for a graceful end, a worker that still turns gets so long to hand back what it runs.
_HAND_BACK_S = 5.0
# One turn that serves many predictions is slow, and it isn't any of them that hangs: such a loop gets more time.
_OVERLOADED = 3.0
_ENDING = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}
_SAMPLES = 16
_OUTAGES = (OperationalError, RedisError, OSError, BridgeError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MonitorSettings:
    """What a monitor watches, and when it does what.

    Attributes:
        worker: the Celery node.
        pid: the worker's main process.
        lease_s: seconds without a turn after which a stall is reported, and a worker that is to end is ended.
        beat_s: seconds between two renewals of what the worker holds.
        grace_s: seconds from a signal to end until the worker is ended.
    """

    worker: str
    pid: int
    lease_s: float
    heartbeat_s: float
    grace_s: float


@dataclass(slots=True)
class _ProcessState:
    """One process, as the monitor has seen it."""

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
        """Takes in what the process says now; returns whether its loop has turned."""
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
    """Watches one worker and the processes that it forks, until the worker is gone.

    Args:
        watch: what to watch.
        beats: what they say.
        stacks: where they write their stacks.
        signals: a pipe that gets the number of each signal that the worker gets, and is closed when it ends.
        settling: the worker's messages.
        stalls: where stalls are reported.
    """

    def __init__(
        self,
        settings: MonitorSettings,
        status: SharedStatus,
        stacks: Stacks,
        signals: int,
        settling: ClaimSettlement,
        stalls: Stalls,
    ) -> None:
        self._settings = settings
        self._status = status
        self._stacks = stacks
        self._signals = signals
        self._settling = settling
        self._stalls = stalls
        self._processes: dict[int, _ProcessState] = {}
        self._ending_s: float | None = None
        self._handing_back = False

    def run(self) -> None:
        """Watches until the worker is gone."""
        at = time.monotonic()
        while self._wait_for_tick() and os.getppid() == self._settings.pid:
            before, at = at, time.monotonic()
            # A monitor that stood still itself has seen nothing in that time.
            self.tick(min(at - before, 2 * TICK_S))

    def tick(self, elapsed_s: float) -> None:
        """Looks at all processes once, so many seconds after the last time."""
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
        """Waits for a tick and takes what the worker was told meanwhile; False if the worker is gone."""
        heard = select.poll()  # select() takes no descriptor from 1,024 on
        heard.register(self._signals, select.POLLIN)
        if not heard.poll(TICK_S * 1000):
            return True
        told = os.read(self._signals, 64)
        if any(number in _ENDING for number in told) and self._ending_s is None:
            self._ending_s = 0.0
        return bool(told)

    # ------------------------------------------------------------------ one process

    def _check(self, seen: _ProcessState, beat: ProcessStatus, elapsed_s: float) -> None:
        if seen.update(beat, elapsed_s):
            if seen.reported:
                seen.reported = seen.named = False
                _log.warning("The event loop of process %d turns again", beat.pid)
                with _log_failure("say that the worker goes on"):
                    run_blocking(self._stalls.over(self._settings.worker, beat.pid))
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
        # A child is one prediction's alone: as long as it computes, it harms nobody.
        if main and seen.stalled_s >= self._settings.lease_s and self._should_report(seen):
            self._report(seen, "stands still")
        limit_s = self._limit_s(beat)
        if seen.stalled_s >= (limit_s * _OVERLOADED if is_progressing(seen.samples) else limit_s):
            self._end_process(seen)

    def _should_report(self, seen: _ProcessState) -> bool:
        """Whether a stall is to be reported: once, and again when it is known whose code it is."""
        who = find_culprit(seen.samples)
        known, before = who is not None, (seen.reported, seen.named)
        seen.reported, seen.named = True, seen.named or known
        return before != (True, seen.named)

    def _limit_s(self, beat: ProcessStatus) -> float:
        """A worker that is to end has no reason to wait for a loop that doesn't turn."""
        if self._ending_s is None or beat.pid != self._settings.pid:
            return beat.limit_s
        return min(self._settings.lease_s, beat.limit_s)

    def _renew(self, seen: _ProcessState) -> None:
        """Renews what the worker holds where its keeper can't, since somebody's code has the interpreter lock."""
        if seen.gil_blocked_s < self._settings.heartbeat_s:
            return
        if seen.stalled_s - seen.renewed_s >= self._settings.heartbeat_s:
            seen.renewed_s = seen.stalled_s
            with _log_failure("renew what the worker holds"):
                self._settling.renew(self._status.lease_holders)

    def _sample(self, seen: _ProcessState) -> None:
        between_s = min(seen.beat.limit_s / 20, self._settings.lease_s / 4)
        if seen.stalled_s - seen.sampled_s < max(between_s, 2 * TICK_S):
            return
        seen.sampled_s = seen.stalled_s
        thread = seen.beat.thread
        busy, seen.used = find_busiest_thread(seen.beat.pid, seen.used)
        if seen.gil_blocked_s >= 2 * TICK_S:
            # The loop may wait for the interpreter lock amid somebody else's code. Who has the lock computes.
            if busy is None:
                return
            thread = busy
        seen.samples.append(Sample.parse(self._stacks.capture(thread)))

    # ------------------------------------------------------------------ the end of one

    def _end_process(self, seen: _ProcessState) -> None:
        pid, who = seen.beat.pid, find_culprit(seen.samples)
        error = self._report(seen, "is ended")
        give_up = seen.stalled_s >= seen.beat.limit_s
        # It must not go on with what others are given.
        _kill(pid, signal.SIGSTOP)
        with _log_failure("settle what the worker holds"):
            if pid == self._settings.pid:
                self._settling.settle(self._status.lease_holders, who, error, give_up=give_up)
            elif who is not None:
                self._settling.dead_letter(self._status.lease_holders, who, error)
        with _log_failure("report the stall"):
            run_blocking(self._stalls.report(self._stall(seen, who, ended=True)))
        _kill(pid, ENDED_BY)
        _kill(pid, signal.SIGCONT)
        if _survives(pid, _DEATH_S):
            _kill(pid, signal.SIGKILL)
        seen.stalled_s = 0.0

    def _report(self, seen: _ProcessState, what: str) -> str:
        """Logs what is the matter with a process and reports it; returns what is told of the prediction at fault."""
        who = find_culprit(seen.samples)
        place = who.place if who is not None else next((one.place for one in reversed(seen.samples)), "")
        whose = f", in prediction {who.prediction}" if who is not None else ""
        where = f" at {place}" if place else ""
        _log.error(
            "The event loop of process %d hasn't turned for %.0f s%s%s; the process %s",
            seen.beat.pid, seen.stalled_s, whose, where, what,
        )  # fmt: skip
        with _log_failure("report the stall"):
            run_blocking(self._stalls.report(self._stall(seen, who, ended=False)))
        return (
            f"its code held up its worker for {seen.stalled_s:.0f} s{where}; await there what waits, or register the "
            f"program with executes_code=True, which gives it a process of its own"
        )

    def _stall(self, seen: _ProcessState, who: Culprit | None, *, ended: bool) -> Stall:
        now, place = time.time(), next((one.place for one in reversed(seen.samples)), "")
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
        """Ends a worker that was told to end and doesn't: first it is to hand back what it runs, then it is killed."""
        if self._ending_s is None or is_stopped(self._settings.pid):
            return
        self._ending_s += elapsed_s
        if self._ending_s >= self._settings.grace_s and not self._handing_back:
            self._handing_back = True
            _log.warning("The worker doesn't end within %g s; it is to hand back what it runs", self._settings.grace_s)
            _kill(self._settings.pid, signal.SIGQUIT)
        if self._ending_s >= self._settings.grace_s + _HAND_BACK_S:
            _log.error("The worker doesn't end; its processes are killed")
            with _log_failure("settle what the worker holds"):
                self._settling.requeue_all(self._status.lease_holders)
            for pid in {beat.pid for beat in self._status} | {self._settings.pid}:
                _kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _log_failure(what: str) -> Generator[None]:
    """Lets the watchdog go on where something fails, above all as Redis is away: it ends the process all the same."""
    try:
        yield
    except _OUTAGES as away:
        _log.error("The watchdog can't %s: %s", what, away)
    except Exception:  # noqa: BLE001 (a worker that hangs is ended, whatever else fails)
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
