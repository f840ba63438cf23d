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

# Minimum interval between two round trips: far below any LM's latency, and it halves a busy process's cost of Redis.
_MIN_INTERVAL_S = 0.004

# Commands per round trip, which has to end within the connection's timeout even if thousands are queued.
_MAX_BATCH = 500

Command = tuple[Any, ...]
Waiters = list["asyncio.Future[Any]"]
"""The callers of one command, each with a future of its own: one that is cancelled leaves the others alone."""

Send = Callable[[Sequence[Command]], Awaitable[Sequence[Any]]]


class Pipeliner:
    """Pipelines the commands of one event loop to one server.

    Args:
        send: sends commands and returns their replies, an error reply as an exception.
    """

    def __init__(self, send: Send) -> None:
        self._send = send
        self._queued: list[tuple[Command, Waiters]] = []
        self._reads: dict[Command, Waiters] = {}
        self._sending: asyncio.Task[None] | None = None
        self._sent_at = float("-inf")

    def execute_read(self, command: Command) -> asyncio.Future[Any]:
        """Execute a read-only command; equal ones of one round trip are sent once."""
        waiters = self._reads.get(command)
        if waiters is None:
            waiters = self._reads[command] = self._queue(command)
        return _wait_in(waiters)

    def execute(self, command: Command) -> asyncio.Future[Any]:
        """Queue a command to be sent, whether or not its reply is awaited.

        Awaiting the reply raises the error of the round trip, or the server's error for this command.
        """
        return _wait_in(self._queue(command))

    def _queue(self, command: Command) -> Waiters:
        waiters: Waiters = []
        self._queued.append((command, waiters))
        if self._sending is None:
            loop = asyncio.get_running_loop()
            self._sending = loop.create_task(self._send_all(), context=contextvars.Context())
        return waiters

    async def _send_all(self) -> None:
        try:
            while self._queued:
                wait_s = self._sent_at + _MIN_INTERVAL_S - time.monotonic()
                if wait_s > 0:
                    await asyncio.sleep(wait_s)
                self._sent_at = time.monotonic()
                batch, self._queued, self._reads = self._queued[:_MAX_BATCH], self._queued[_MAX_BATCH:], {}
                await self._send_batch([(command, waiters) for command, waiters in batch if not _all_done(waiters)])
        finally:
            self._sending = None

    async def _send_batch(self, batch: Sequence[tuple[Command, Waiters]]) -> None:
        try:
            results = await self._send([command for command, _ in batch])
        except Exception as exc:  # noqa: BLE001 (raised in every caller)
            results = [exc] * len(batch)
        except asyncio.CancelledError:
            for _, waiters in batch:
                for reply in waiters:
                    reply.cancel()
            raise
        for (_, waiters), result in zip(batch, results, strict=True):
            for reply in waiters:
                _settle(reply, result)


def _wait_in(waiters: Waiters) -> asyncio.Future[Any]:
    reply: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
    waiters.append(reply)
    return reply


def _all_done(waiters: Waiters) -> bool:
    return all(reply.done() for reply in waiters)


def _settle(reply: asyncio.Future[Any], result: Any) -> None:
    if reply.done():
        return
    if isinstance(result, Exception):
        reply.set_exception(copy_error(result))
        reply.exception()  # marks it as retrieved, since the caller may have gone
    else:
        reply.set_result(result)
