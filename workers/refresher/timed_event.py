"""An event for a single waiter, with a timeout that costs one timer."""

from __future__ import annotations

import asyncio


class TimedEvent:
    """Like ``asyncio.Event`` for one waiter, but ``wait`` has a timeout and creates no task.

    A refresher waits on thousands of these each second; ``wait_for_event`` of ``snakepit_bridge.process.aio``, which
    suits any event, costs more than twice as much.
    """

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """End the current wait, or the next one."""
        self._is_set = True
        self._wake()

    def clear(self) -> bool:
        """Reset the event; return whether it was set."""
        was_set, self._is_set = self._is_set, False
        return was_set

    async def wait(self, seconds: float) -> None:
        """Wait until the event is set, or for so many seconds."""
        if self._is_set:
            return
        loop = asyncio.get_running_loop()
        self._waiter = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        try:
            await self._waiter
        finally:
            timer.cancel()
            self._waiter = None

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
