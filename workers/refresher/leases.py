"""Who follows which session: a lease per session that ends by itself, and a list of the refreshers at work.

A lease only keeps two refreshers from doing the same work. What keeps a paused one from publishing is the fence, which
the next holder raises before its first look.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from snakepit_bridge.scripts import source
from snakepit_bridge.stores.connection import RedisConnection

_HOLD, _PRESENT = source("workers.refresher", "hold"), source("workers.refresher", "present")
# A pipeline is built in one go: a longer one would hold every follower up.
_AT_ONCE = 100


class Leases:
    """The leases of one refresher.

    Args:
        connection: the way to Redis.
        namespace: prefix of the keys.
        owner: the refresher's name, which no other has.
        lease_s: how long a lease lasts when nobody renews it.
    """

    def __init__(self, connection: RedisConnection, namespace: str, owner: str, lease_s: float) -> None:
        self._connection = connection
        self._namespace = namespace
        self._owner = owner
        self._lease_ms = max(1, round(lease_s * 1000))

    async def hold(self, sessions: Iterable[str]) -> set[str]:
        """Takes or renews leases; returns the sessions whose lease is held now.

        Raises:
            StoreUnavailableError
        """
        names = list(sessions)
        answers = await self._ask(names, self._lease_ms)
        return {name for name, held in zip(names, answers, strict=True) if held}

    async def free(self, sessions: Sequence[str]) -> set[str]:
        """Returns the sessions that nobody else holds the lease of: one that died held them under this name before.

        Raises:
            StoreUnavailableError
        """
        found: set[str] = set()
        for start in range(0, len(sessions), _AT_ONCE):
            some = sessions[start : start + _AT_ONCE]
            holders = await self._connection.send_each([("GET", self._key(session)) for session in some])
            ours = (None, self._owner.encode())
            found |= {session for session, holder in zip(some, holders, strict=True) if holder in ours}
        return found

    async def give_back(self, sessions: Iterable[str]) -> None:
        """Ends leases, so that another refresher needn't wait for their end.

        Raises:
            StoreUnavailableError
        """
        await self._ask(list(sessions), 0)

    async def present(self) -> int:
        """Notes that this refresher is at work; returns how many are.

        Raises:
            StoreUnavailableError
        """
        return await self._count(self._owner, leave=False)

    async def leave(self) -> None:
        """Notes that this refresher is at work no longer.

        Raises:
            StoreUnavailableError
        """
        await self._count(self._owner, leave=True)

    async def _count(self, owner: str, *, leave: bool) -> int:
        script = self._connection.client.register_script(_PRESENT)
        key, args = f"{self._namespace}:refreshers", (owner, self._lease_ms, int(leave))
        return int(await self._connection.bounded(script([key], args)))

    async def _ask(self, sessions: Sequence[str], lease_ms: int) -> list[Any]:
        client = self._connection.client
        script = client.register_script(_HOLD)
        answers: list[Any] = []
        for start in range(0, len(sessions), _AT_ONCE):
            async with client.pipeline(transaction=False) as pipeline:
                for session in sessions[start : start + _AT_ONCE]:
                    await script([self._key(session)], (self._owner, lease_ms), client=pipeline)
                answers += await self._connection.bounded(pipeline.execute())
        return answers

    def _key(self, session: str) -> str:
        return f"{self._namespace}:{{s:{session}}}:lease"
