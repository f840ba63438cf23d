"""Pulse: this process's part of the watchdog. It counts the turns of the event loop and measures how late they are."""

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
# A minute of turns.
_KEPT = 600
# So many beats are between two looks whether the watchdog is still there.
_CHECK_EVERY = 100
# Where this process is the first of its container, no other can end it. It ends itself so much later.
_ITSELF_S = 10.0


@dataclass(frozen=True, slots=True)
class Lag:
    """How late the turns of the last minute were, in milliseconds."""

    p50_ms: float
    p99_ms: float
    worst_ms: float

    @classmethod
    def from_delays(cls, late_s: list[float]) -> Lag:
        """Returns it for the delays of some turns; none were late if there are none."""
        ordered = sorted(late_s) or [0.0]
        last = len(ordered) - 1
        return cls(*(round(ordered[round(share * last)] * 1000, 1) for share in (0.5, 0.99, 1.0)))


class Pulse:
    """The pulse of one process; nothing happens before ``start``, and nobody is told without ``beats``.

    Attributes:
        beats: the memory that is shared with the watchdog.
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
        """Begins to count the turns of a loop that may stand still for so many seconds; does nothing if it has begun.

        Raises:
            RuntimeError: the worker has too many processes.
        """
        if self._loop is loop:
            return
        self._loop, self._limit_s = loop, limit_s
        loop.call_soon_threadsafe(self._begin)

    def stop(self) -> None:
        """Counts no more: a loop that is closed on purpose doesn't hang."""
        self._loop = None
        if self.status is not None and self._slot is not None:
            self.status.unregister(self._slot)
            self._slot = None

    def add_lease_holder(self, name: str) -> None:
        """Says under which name this process holds messages."""
        if self.status is not None:
            self.status.add_lease_holder(name)

    @property
    def stalled_s(self) -> float:
        """Seconds since the loop turned; 0 if nobody counts that."""
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
        """Says, from a thread that has nothing else to do, that the interpreter lock is to be had."""
        alive = 0
        while self._loop is loop and self.status is not None and self._slot is not None:
            alive += 1
            self.status.set_alive(self._slot, alive)
            if self.watchdog and alive % _CHECK_EVERY == 0 and _has_ended(self.watchdog):
                _log.error("The watchdog of this worker has ended. Restart the worker: nobody would end it if it hung")
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
    """The home loop is stopped at the end, and a process that ends needn't hurry."""
    PULSE.stop()


def reset_after_fork() -> None:
    """In a forked child the parent's loop doesn't turn; it shares the memory, for when it starts a pulse of its own."""
    beats = PULSE.status
    PULSE.__init__()
    PULSE.status = beats


after_fork_in_child(reset_after_fork)
