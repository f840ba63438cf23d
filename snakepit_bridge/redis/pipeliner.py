"""Commands that travel together: what is asked in one tick of the event loop shares one round trip.

A command of its own costs a caller several times what it costs as one of many. So what is asked while a round trip is
under way, or within moments of the last one, gathers for the next: who is alone never waits, and the busier a process
is, the more share each round trip.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from snakepit_bridge.exceptions import fresh_error
from snakepit_bridge.process.home_loop import share

# Between two round trips. It is far below what any answer of an LM takes, and halves what Redis costs a busy process.
_APART_S = 0.004

# In one round trip, which has to end within a connection's timeout: ten thousand waiters ask in one tick.
_TOGETHER = 500

Command = tuple[Any, ...]
Send = Callable[[Sequence[Command]], Awaitable[Sequence[Any]]]


class Pipeliner:
    """The commands of one event loop for one server.

    Args:
        send: sends commands and returns their answers, each refusal as the exception that it is.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._asked: list[tuple[Command, asyncio.Future[Any]]] = []
        self._reads: dict[Command, asyncio.Future[Any]] = {}
        self._sending: asyncio.Task[None] | None = None
        self._sent_at = float("-inf")

    def read(self, command: Command) -> asyncio.Future[Any]:
        """Does what :meth:`ask` does for a command that only reads; equal ones of one round trip are sent once."""
        asked = self._reads.get(command)
        if asked is None:
            asked = self._reads[command] = self.ask(command)
        # Others may wait for it too: a caller that gives up must not take it from them.
        return share(asked)

    def ask(self, command: Command) -> asyncio.Future[Any]:
        """Has a command sent, whether or not its answer is awaited at once.

        Awaiting it raises what sending raises, or the server's refusal of this one command.
        """
        loop = asyncio.get_running_loop()
        answer: asyncio.Future[Any] = loop.create_future()
        self._asked.append((command, answer))
        if self._sending is None:
            self._sending = loop.create_task(self._send_all(), context=contextvars.Context())
        return answer

    async def _send_all(self) -> None:
        try:
            while self._asked:
                wait_s = self._sent_at + _APART_S - time.monotonic()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                self._sent_at = time.monotonic()
                asked, self._asked, self._reads = self._asked[:_TOGETHER], self._asked[_TOGETHER:], {}
                await self._send_these([one for one in asked if not one[1].done()])
        finally:
            self._sending = None

    async def _send_these(self, asked: Sequence[tuple[Command, asyncio.Future[Any]]]) -> None:
        try:
            answers = await self._send([command for command, _ in asked])
        except Exception as away:  # noqa: BLE001 (every caller is told, and nobody else is there to be)
            answers = [away] * len(asked)
        except asyncio.CancelledError:
            for _, answer in asked:
                answer.cancel()
            raise
        for (_, answer), got in zip(asked, answers, strict=True):
            if answer.done():
                continue
            if isinstance(got, Exception):
                answer.set_exception(fresh_error(got))
                answer.exception()  # nobody needs to be told of it who had no use for the answer any more
            else:
                answer.set_result(got)
