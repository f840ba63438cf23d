"""Leases of sessions in Redis, one per session, and the registry of running refreshers.

A lease only avoids duplicate work. Correctness doesn't depend on it: a paused refresher is kept from publishing by the
fence, which the next holder raises before its first read.

A lease is held by a process: its owner is the refresher's name plus an id of the process. A process that is restarted
under the same name takes over the leases of earlier processes of that name without waiting for them to expire. If such
a process is still alive, the two divide the sessions like any two refreshers: each lease has one holder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import uuid4

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.lease import LEASE, lease_call
from snakepit_bridge.redis.scripts import ScriptPackage

_SCRIPTS = ScriptPackage(f"{__package__}")
# A pipeline is built without yielding to the event loop: a longer one would delay every follower.
_PIPELINE_SIZE = 100


class RefresherLeases:
    """The leases of one refresher.

    Args:
        connection: the connection to Redis.
        namespace: prefix of the keys.
        name: the refresher's name.
        lease_s: seconds after which a lease expires unless renewed.

    Attributes:
        owner: this process, as leases name it: the refresher's name and an id of the process.
    """

    def __init__(self, connection: RedisConnection, namespace: str, name: str, lease_s: float) -> None:
        self.owner = f"{name}/{uuid4().hex[:8]}"
        self._name = name
        self._connection = connection
        self._keys = FleetKeys(namespace)
        self._lease_ms = max(1, round(lease_s * 1000))
        # Owners of earlier processes of this name; None until they have been read.
        self._earlier: tuple[str, ...] | None = None

    async def acquire(self, sessions: Iterable[str], *, take_over: bool = False) -> set[str]:
        """Acquire or renew leases; return the sessions whose lease is held now.

        Args:
            sessions: names of the sessions.
            take_over: also acquire leases that earlier processes of this refresher's name hold.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        names = list(sessions)
        answers = await self._run_each("acquire", names, self._earlier or () if take_over else ())
        return {name for name, held in zip(names, answers, strict=True) if held}

    async def find_free(self, sessions: Sequence[str]) -> set[str]:
        """Return the sessions whose lease is free, or held by this process or an earlier one of the same name.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        free: set[str] = set()
        available = {None, *(owner.encode() for owner in (self.owner, *(self._earlier or ())))}
        for start in range(0, len(sessions), _PIPELINE_SIZE):
            batch = sessions[start : start + _PIPELINE_SIZE]
            holders = await self._connection.send_each([("GET", self._key(session)) for session in batch])
            free |= {session for session, holder in zip(batch, holders, strict=True) if holder in available}
        return free

    async def release(self, sessions: Iterable[str]) -> None:
        """Release leases, so that another refresher can acquire them at once.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        await self._run_each("release", list(sessions))

    async def register(self) -> int:
        """Register this refresher as running, or renew its registration; return how many are running.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        # Kept for longer than a lease, so that an earlier process is known for as long as it may hold one.
        key, args = self._keys.refresher(self._name), (self.owner, 2 * self._lease_ms)
        others = await self._connection.run(_SCRIPTS["named"], [key], args)
        if self._earlier is not None:
            return await self._count()
        self._earlier = tuple(other.decode() for other in others)
        return await self._count(gone=self._earlier)

    async def unregister(self) -> None:
        """Remove this refresher from the running ones.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        await self._count(leave=True)

    async def _count(self, *, leave: bool = False, gone: Sequence[str] = ()) -> int:
        key, args = self._keys.refreshers, (self.owner, self._lease_ms, int(leave), *gone)
        return int(await self._connection.run(_SCRIPTS["present"], [key], args))

    async def _run_each(self, operation: str, sessions: Sequence[str], earlier: Sequence[str] = ()) -> list[Any]:
        answers: list[Any] = []
        for start in range(0, len(sessions), _PIPELINE_SIZE):
            calls = [
                lease_call(self._key(session), self.owner, operation, self._lease_ms, take_over=earlier)
                for session in sessions[start : start + _PIPELINE_SIZE]
            ]
            answers += await self._connection.run_each(LEASE, calls)
        return answers

    def _key(self, session: str) -> str:
        return self._keys.session_lease(session)
