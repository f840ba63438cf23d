"""Automatic pipelining: commands of concurrent tasks share round trips.

A command by itself costs several times as much as one in a pipeline. So commands that are issued during a round trip,
or within moments of the last one, are batched for the next: a single caller never waits, and the busier a process is,
the more commands share each round trip.
"""

from __future__ import annotations

import asyncio
import contextvars
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from snakepit_bridge.exceptions import copy_error
from snakepit_bridge.process.home_loop import share_future

# Minimum interval between two round trips: far below any LM's latency, and it halves a busy process's cost of Redis.
_MIN_INTERVAL_S = 0.004

# Commands per round trip, which has to end within the connection's timeout even if thousands are queued.
_MAX_BATCH = 500

Command = tuple[Any, ...]
Send = Callable[[Sequence[Command]], Awaitable[Sequence[Any]]]


class Pipeliner:
    """Pipelines the commands of one event loop to one server.

    Args:
        send: sends commands and returns their replies, an error reply as an exception.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._queued: list[tuple[Command, asyncio.Future[Any]]] = []
        self._reads: dict[Command, asyncio.Future[Any]] = {}
        self._sending: asyncio.Task[None] | None = None
        self._sent_at = float("-inf")

    def execute_read(self, command: Command) -> asyncio.Future[Any]:
        """Execute a read-only command; equal ones of one round trip are sent once."""
        reply = self._reads.get(command)
        if reply is None:
            reply = self._reads[command] = self.execute(command)
        # Shared: a caller that is cancelled must not cancel it for the others.
        return share_future(reply)

    def execute(self, command: Command) -> asyncio.Future[Any]:
        """Queue a command to be sent, whether or not its reply is awaited.

        Awaiting the reply raises the error of the round trip, or the server's error for this command.
        """
        loop = asyncio.get_running_loop()
        reply: asyncio.Future[Any] = loop.create_future()
        self._queued.append((command, reply))
        if self._sending is None:
            self._sending = loop.create_task(self._send_all(), context=contextvars.Context())
        return reply

    async def _send_all(self) -> None:
        try:
            while self._queued:
                wait_s = self._sent_at + _MIN_INTERVAL_S - time.monotonic()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                self._sent_at = time.monotonic()
                batch, self._queued, self._reads = self._queued[:_MAX_BATCH], self._queued[_MAX_BATCH:], {}
                await self._send_batch([(command, reply) for command, reply in batch if not reply.done()])
        finally:
            self._sending = None

    async def _send_batch(self, batch: Sequence[tuple[Command, asyncio.Future[Any]]]) -> None:
        try:
            results = await self._send([command for command, _ in batch])
        except Exception as exc:  # noqa: BLE001 (raised in every caller)
            results = [exc] * len(batch)
        except asyncio.CancelledError:
            for _, reply in batch:
                reply.cancel()
            raise
        for (_, reply), result in zip(batch, results, strict=True):
            if reply.done():
                continue
            if isinstance(result, Exception):
                reply.set_exception(copy_error(result))
                reply.exception()  # marks it as retrieved, since the caller may have gone
            else:
                reply.set_result(result)
