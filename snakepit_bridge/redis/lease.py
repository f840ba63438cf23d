"""Leases: distributed locks that expire, so that a crashed holder blocks others only for seconds.

The holder renews its lease. A holder that was paused for longer than the lease has lost it: its writes are rejected,
and it must not rely on anything that it read before.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncGenerator, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from uuid import uuid4

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.scripts import ScriptPackage

LEASE_S = 3.0
"""Seconds after which the lease of a crashed process expires."""

_POLL_INTERVAL_S = 0.05
_SCRIPTS = ScriptPackage("snakepit_bridge.redis")

LEASE_FUNCTIONS = _SCRIPTS["lease_functions"].text
"""Lua text that defines ``hold_lease`` and ``release_lease``, for scripts that do more while a lease is held."""
LEASE = _SCRIPTS["lease"]
"""The script that acquires, renews and releases leases, see :func:`lease_call`."""


class LeaseLostError(Exception):
    """The lease has expired, since its holder was paused for too long. Start again with a new lease."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A held lease."""

    key: str
    owner: str
    _connection: RedisConnection
    _lease_ms: int

    async def write_record(self, record: str, content: str, kept_s: int) -> None:
        """Write a record whose key shares the lease's hash tag.

        Args:
            record: the record's key.
            content: its new value.
            kept_s: TTL of the record in seconds.

        Raises:
            LeaseLostError: the lease has been lost; the record is unchanged.
            StoreUnavailableError: Redis is unreachable.
        """
        if not await self._run("write", record, content, kept_s):
            raise LeaseLostError(self.key)

    async def delete_record(self, record: str) -> None:
        """Delete a record if the lease is still held.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        await self._run("delete", record)

    async def acquire(self) -> bool:
        """Try to acquire the lease, or to renew it, and return whether it is held now.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        return await self._run("acquire")

    async def keep_renewing(self) -> None:
        """Renew the lease until the call is cancelled or the lease is lost. An unreachable Redis is ignored."""
        held = True
        while held:
            await asyncio.sleep(self._lease_ms / 3000)
            with suppress(StoreUnavailableError):  # the next write reports it
                held = await self._run("renew")

    async def release(self) -> None:
        """Release the lease; if Redis is unreachable, it expires by itself."""
        with suppress(StoreUnavailableError):
            await self._run("release")

    async def _run(self, operation: str, record: str = "", content: str = "", kept_s: int = 0) -> bool:
        keys = [self.key, record or self.key]
        return bool(await self._connection.run(LEASE, keys, [self.owner, operation, self._lease_ms, content, kept_s]))


def lease_call(
    key: str, owner: str, operation: str, lease_ms: int, *, take_over: Iterable[str] = ()
) -> tuple[list[str], tuple[str | int, ...]]:
    """Return the keys and arguments of :data:`LEASE` that acquire or release a lease, to send many in a pipeline.

    Args:
        key: the lease.
        owner: who acquires or releases it.
        operation: ``acquire``, which also renews, or ``release``.
        lease_ms: milliseconds after which the lease expires unless it is renewed.
        take_over: owners whose lease may be taken over.
    """
    return [key, key], (owner, operation, lease_ms, "", 0, *take_over)


class Leases:
    """The leases in one Redis.

    Args:
        connection: the Redis.
        lease_s: seconds after which a lease expires unless it is renewed.
    """

    def __init__(self, connection: RedisConnection, lease_s: float = LEASE_S) -> None:
        self._connection = connection
        self._lease_ms = max(1, round(lease_s * 1000))

    def prepare(self, key: str) -> Lease:
        """Return a lease that isn't held yet, for an owner who acquires it again and again by itself."""
        # Unique, and for people who look at the key it says which process it is.
        owner = f"{socket.gethostname()}/{os.getpid()}/{uuid4().hex}"
        return Lease(key, owner, self._connection, self._lease_ms)

    @asynccontextmanager
    async def acquire(self, key: str) -> AsyncGenerator[Lease]:
        """Wait for a lease and hold it within the block.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        lease = self.prepare(key)
        while not await _try_acquire(lease):  # noqa: ASYNC110 - another process holds it
            await asyncio.sleep(_POLL_INTERVAL_S)
        renewing = asyncio.create_task(lease.keep_renewing(), name=f"keep {key}")
        try:
            yield lease
        finally:
            renewing.cancel()
            await asyncio.shield(lease.release())


async def _try_acquire(lease: Lease) -> bool:
    """Try to acquire the lease; if the caller is cancelled meanwhile, release it."""
    acquiring = asyncio.ensure_future(lease.acquire())
    try:
        return await asyncio.shield(acquiring)
    except asyncio.CancelledError:
        with suppress(StoreUnavailableError):  # then it expires by itself
            if await acquiring:
                await lease.release()
        raise
