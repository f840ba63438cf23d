"""Who follows which session: a lease per session that ends by itself, and a list of the refreshers at work.

A lease only keeps two refreshers from doing the same work. What keeps a paused one from publishing is the fence, which
the next holder raises before its first look.

A lease is held by a process, which has a mark beside its refresher's name. One that is started again under its name
takes over what earlier processes of the name hold, so it needn't wait for the end of their leases. If one of those is
alive after all, the two share the sessions as any two refreshers do: each lease has one holder.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import uuid4

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.scripts import ScriptPackage

_SCRIPTS = ScriptPackage("workers.refresher")
# A pipeline is built in one go: a longer one would hold every follower up.
_AT_ONCE = 100


class RefresherLeases:
    """The leases of one refresher.

    Args:
        connection: the way to Redis.
        namespace: prefix of the keys.
        name: the refresher's name.
        lease_s: how long a lease lasts when nobody renews it.

    Attributes:
        owner: this process, as leases name it: the refresher's name and a mark of its own.
    """

    def __init__(self, connection: RedisConnection, namespace: str, name: str, lease_s: float) -> None:
        self.owner = f"{name}/{uuid4().hex[:8]}"
        self._name = name
        self._connection = connection
        self._namespace = namespace
        self._lease_ms = max(1, round(lease_s * 1000))
        # The earlier processes of this name, unless they end with their leases; None until they were asked for.
        self._earlier: tuple[str, ...] | None = None

    async def acquire(self, sessions: Iterable[str], *, take_over: bool = False) -> set[str]:
        """Take or renew leases; return the sessions whose lease is held now.

        Args:
            sessions: the sessions.
            take_over: also from earlier processes of this refresher's name.

        Raises:
            StoreUnavailableError
        """
        names = list(sessions)
        answers = await self._set_leases(names, self._lease_ms, self._earlier or () if take_over else ())
        return {name for name, held in zip(names, answers, strict=True) if held}

    async def find_free(self, sessions: Sequence[str]) -> set[str]:
        """Return the sessions whose lease can be taken: nobody has it, or an earlier process of this refresher's name.

        Raises:
            StoreUnavailableError
        """
        found: set[str] = set()
        ours = {None, *(owner.encode() for owner in (self.owner, *(self._earlier or ())))}
        for start in range(0, len(sessions), _AT_ONCE):
            some = sessions[start : start + _AT_ONCE]
            holders = await self._connection.send_each([("GET", self._key(session)) for session in some])
            found |= {session for session, holder in zip(some, holders, strict=True) if holder in ours}
        return found

    async def release(self, sessions: Iterable[str]) -> None:
        """Ends leases, so that another refresher needn't wait for their end.

        Raises:
            StoreUnavailableError
        """
        await self._set_leases(list(sessions), 0)

    async def register(self) -> int:
        """Note that this refresher is at work; return how many are.

        Raises:
            StoreUnavailableError
        """
        # For longer than what an earlier process holds: a lease that it renewed last ends before it is forgotten.
        key, args = f"{self._namespace}:refreshers:{self._name}", (self.owner, 2 * self._lease_ms)
        others = await self._connection.run(_SCRIPTS["named"], [key], args)
        if self._earlier is not None:
            return await self._count()
        self._earlier = tuple(other.decode() for other in others)
        return await self._count(gone=self._earlier)

    async def unregister(self) -> None:
        """Notes that this refresher is at work no longer.

        Raises:
            StoreUnavailableError
        """
        await self._count(leave=True)

    async def _count(self, *, leave: bool = False, gone: Sequence[str] = ()) -> int:
        key, args = f"{self._namespace}:refreshers", (self.owner, self._lease_ms, int(leave), *gone)
        return int(await self._connection.run(_SCRIPTS["present"], [key], args))

    async def _set_leases(self, sessions: Sequence[str], lease_ms: int, earlier: Sequence[str] = ()) -> list[Any]:
        args = (self.owner, lease_ms, *earlier)
        answers: list[Any] = []
        for start in range(0, len(sessions), _AT_ONCE):
            calls = [([self._key(session)], args) for session in sessions[start : start + _AT_ONCE]]
            answers += await self._connection.run_each(_SCRIPTS["hold"], calls)
        return answers

    def _key(self, session: str) -> str:
        return f"{self._namespace}:{{s:{session}}}:lease"
