"""The process's own part of the watchdog: counts iterations of the event loop and measures their lag."""

from __future__ import annotations

import asyncio
import atexit
import faulthandler
import logging
import os
import threading
import time
from collections import deque
from dataclasses import dataclass

from snakepit_bridge.process.forking import after_fork_in_child
from workers.watchdog.beats import SharedStatus

_log = logging.getLogger(__name__)

_EVERY_S = 0.1
# A minute of iterations.
_KEPT = 600
# Ticks between two checks that the watchdog still runs.
_CHECK_EVERY = 100
# As PID 1 of a container, this process can't be killed by another one. It exits by itself this much later.
_ITSELF_S = 10.0


@dataclass(frozen=True, slots=True)
class Lag:
    """How late the loop's iterations of the last minute were, in milliseconds."""

    p50_ms: float
    p99_ms: float
    worst_ms: float

    @classmethod
    def from_delays(cls, late_s: list[float]) -> Lag:
        """Return the lag for a list of delays; zero for an empty one."""
        ordered = sorted(late_s) or [0.0]
        last = len(ordered) - 1
        return cls(*(round(ordered[round(share * last)] * 1000, 1) for share in (0.5, 0.99, 1.0)))


class Pulse:
    """The pulse of one process; idle before ``start``, and not shared without ``status``.

    Attributes:
        status: the memory that is shared with the watchdog.
        watchdog: the watchdog's process id, if it is a child of this process.
    """

    def __init__(self) -> None:
        self.status: SharedStatus | None = None
        self.watchdog = 0
        self._loop: asyncio.AbstractEventLoop | None = None
        self._slot: int | None = None
        self._limit_s = 0.0
        self._turns = 0
        self._turned_at = 0.0
        self._late: deque[float] = deque(maxlen=_KEPT)

    def start(self, loop: asyncio.AbstractEventLoop, limit_s: float) -> None:
        """Start counting iterations of a loop that may be blocked for ``limit_s``; do nothing if started.

        Raises:
            RuntimeError: the worker has too many processes.
        """
        if self._loop is loop:
            return
        self._loop, self._limit_s = loop, limit_s
        loop.call_soon_threadsafe(self._begin)

    def stop(self) -> None:
        """Stop counting: a loop that is closed on purpose doesn't hang."""
        self._loop = None
        if self.status is not None and self._slot is not None:
            self.status.unregister(self._slot)
            self._slot = None

    def add_lease_holder(self, name: str) -> None:
        """Share a worker id under which this process holds leases."""
        if self.status is not None:
            self.status.add_lease_holder(name)

    @property
    def stalled_s(self) -> float:
        """Seconds since the loop's last iteration; 0 if not started."""
        return 0.0 if self._loop is None or not self._turns else max(0.0, time.monotonic() - self._turned_at)

    @property
    def lag(self) -> Lag:
        """How late the loop was in the last minute."""
        return Lag.from_delays(list(self._late))

    def _begin(self) -> None:
        if self.status is not None:
            self._slot = self.status.register(threading.get_native_id(), self._limit_s)
            threading.Thread(target=self._count_alive, args=(self._loop,), name="dspex-pulse", daemon=True).start()
        self._turn(self._loop, time.monotonic())

    def _turn(self, loop: asyncio.AbstractEventLoop | None, due: float) -> None:
        if loop is None or self._loop is not loop:
            return
        now = time.monotonic()
        self._late.append(now - due)
        self._turns, self._turned_at = self._turns + 1, now
        if self.status is not None and self._slot is not None:
            self.status.set_turns(self._slot, self._turns)
        loop.call_later(_EVERY_S, self._turn, loop, now + _EVERY_S)
        if os.getpid() == 1 and self._turns % 10 == 1:
            faulthandler.dump_traceback_later(self._limit_s + _ITSELF_S, exit=True)

    def _count_alive(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Count ticks in a thread of its own, which stops while code holds the GIL."""
        alive = 0
        while self._loop is loop and self.status is not None and self._slot is not None:
            alive += 1
            self.status.set_alive(self._slot, alive)
            if self.watchdog and alive % _CHECK_EVERY == 0 and _has_ended(self.watchdog):
                _log.error(
                    "The watchdog of this worker has exited. Restart the worker: it would not be killed if it hung"
                )
                self.watchdog = 0
            time.sleep(_EVERY_S)


def _has_ended(child: int) -> bool:
    try:
        return os.waitpid(child, os.WNOHANG)[0] == child
    except ChildProcessError:
        return True


PULSE = Pulse()
"""The pulse of this process."""


@atexit.register
def _stop() -> None:
    """Stop the pulse at exit, when the home loop is stopped on purpose."""
    PULSE.stop()


def reset_after_fork() -> None:
    """Reset the pulse in a forked child, which keeps the shared memory for a pulse of its own."""
    beats = PULSE.status
    PULSE.__init__()
    PULSE.status = beats


after_fork_in_child(reset_after_fork)
