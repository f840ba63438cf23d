"""What a follower rests on: rung when there is something to look at, and heard at the latest when its time is over."""

from __future__ import annotations

import asyncio


class TimedEvent:
    """One waiter's bell, on its event loop. Thousands of them are waited for each second, so one wait is one timer."""

    def __init__(self) -> None:
        self._is_set = False
        self._waiter: asyncio.Future[None] | None = None

    def set(self) -> None:
        """Ends the wait that is under way, or the next one."""
        self._is_set = True
        self._wake()

    def clear(self) -> bool:
        """Tells whether it was rung, and silences it."""
        rung, self._is_set = self._is_set, False
        return rung

    async def wait(self, seconds: float) -> None:
        """Returns when it is rung, at once if it was, and otherwise after so many seconds."""
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
