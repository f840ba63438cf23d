"""Turns: what several processes may do only one after the other, though any of them can die at it.

A turn is a short lease in Redis that its holder renews, so that one which was killed passes on after seconds. A holder
that was paused for longer has lost it: what it notes under the turn is refused, and it must not trust what it read.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import uuid4

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.scripts import ScriptPackage

LEASE_S = 3.0
"""Seconds after which the turn of a process that died is another's."""

_LOOK_S = 0.05
_SCRIPTS = ScriptPackage("snakepit_bridge.redis")


class TurnLostError(Exception):
    """The turn has passed on, since its holder stood still for longer than the lease. Begin anew, in a new turn."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A turn that is held."""

    key: str
    owner: str
    _connection: RedisConnection
    _lease_ms: int

    async def note(self, record: str, content: str, kept_s: int) -> None:
        """Keeps a record whose key shares the turn's hash tag.

        Raises:
            TurnLostError: the turn is another's; the record is as it was.
            StoreUnavailableError
        """
        if not await self._ask("note", record, content, kept_s):
            raise TurnLostError(self.key)

    async def forget(self, record: str) -> None:
        """Removes a record if the turn is still held; raises StoreUnavailableError."""
        await self._ask("forget", record)

    async def take(self) -> bool:
        """Tells whether the turn is held now; raises StoreUnavailableError."""
        return await self._ask("take")

    async def keep(self) -> None:
        """Renews the turn until it is cancelled or the turn is lost. While Redis is away it isn't renewed."""
        held = True
        while held:
            await asyncio.sleep(self._lease_ms / 3000)
            with suppress(StoreUnavailableError):  # what is noted next says so
                held = await self._ask("keep")

    async def end(self) -> None:
        """Gives the turn back, or leaves that to its lease where Redis is away."""
        with suppress(StoreUnavailableError):
            await self._ask("end")

    async def _ask(self, what: str, record: str = "", content: str = "", kept_s: int = 0) -> bool:
        keys = [self.key, record or self.key]
        return bool(
            await self._connection.run(_SCRIPTS["lease"], keys, [self.owner, what, self._lease_ms, content, kept_s])
        )


class Leases:
    """The turns of one Redis.

    Args:
        connection: the way to it.
        lease_s: how long a turn lasts that nobody renews.
    """

    def __init__(self, connection: RedisConnection, lease_s: float = LEASE_S) -> None:
        self._connection = connection
        self._lease_ms = max(1, round(lease_s * 1000))

    @asynccontextmanager
    async def held(self, key: str) -> AsyncGenerator[Lease]:
        """Waits for a turn and holds it.

        Raises:
            StoreUnavailableError
        """
        turn = Lease(key, uuid4().hex, self._connection, self._lease_ms)
        while not await _taken(turn):  # noqa: ASYNC110 - it is held in another process
            await asyncio.sleep(_LOOK_S)
        keeping = asyncio.create_task(turn.keep(), name=f"keep {key}")
        try:
            yield turn
        finally:
            keeping.cancel()
            await asyncio.shield(turn.end())


async def _taken(turn: Lease) -> bool:
    """Tells whether the turn was free. A caller who hangs up meanwhile doesn't leave it taken."""
    taking = asyncio.ensure_future(turn.take())
    try:
        return await asyncio.shield(taking)
    except asyncio.CancelledError:
        with suppress(StoreUnavailableError):  # then its lease ends it
            if await taking:
                await turn.end()
        raise
