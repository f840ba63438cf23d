"""What a follower rests on: rung when there is something to look at, and heard at the latest when its time is over."""

from __future__ import annotations

import asyncio


class TimedEvent:
    """One waiter's bell, on its event loop. Thousands of them are waited for each second, so one wait is one timer."""

    def __init__(self) -> None:
        self._rung = False
        self._waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        """Ends the wait that is under way, or the next one."""
        self._rung = True
        self._wake()

    def answer(self) -> bool:
        """Tells whether it was rung, and silences it."""
        rung, self._rung = self._rung, False
        return rung

    async def wait(self, seconds: float) -> None:
        """Returns when it is rung, at once if it was, and otherwise after so many seconds."""
        if self._rung:
            return
        loop = asyncio.get_running_loop()
        self._waiting = loop.create_future()
        timer = loop.call_later(seconds, self._wake)
        try:
            await self._waiting
        finally:
            timer.cancel()
            self._waiting = None

    def _wake(self) -> None:
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_result(None)
