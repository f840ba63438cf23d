"""Whether the event loop of a process turns, as its other threads see it."""

from __future__ import annotations

import asyncio
import time

_INTERVAL_S = 0.5
_MAX_SILENCE_S = 5.0


class LoopBeat:
    """Notes that an event loop turns, from ``start`` until ``stop``."""

    def __init__(self) -> None:
        self._turned_at: float | None = None
        self._timer: asyncio.TimerHandle | None = None

    def start(self) -> None:
        """Note each turn of the running loop from now on."""
        self._turn(asyncio.get_running_loop())

    def stop(self) -> None:
        """Note no more: a loop that is closed on purpose isn't blocked."""
        if self._timer is not None:
            self._timer.cancel()
        self._turned_at = None

    def describe_stall(self) -> str:
        """Describe for how long the loop has been blocked; empty if it turns."""
        turned_at = self._turned_at
        silent_s = 0.0 if turned_at is None else time.monotonic() - turned_at
        return f"it has been blocked for {silent_s:.0f} s" if silent_s > _MAX_SILENCE_S else ""

    def _turn(self, loop: asyncio.AbstractEventLoop) -> None:
        self._turned_at = time.monotonic()
        self._timer = loop.call_later(_INTERVAL_S, self._turn, loop)
