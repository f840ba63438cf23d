"""The audit trail: a stream to which every change of a fleet is appended.

In Redis a change that a script makes is recorded by that script, so that neither is without the other. On a cluster the
trail is on another node than most of what changes; there it is recorded right after the change, as are changes that
no script makes.
"""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import replace

from typing_extensions import override

from snakepit_bridge.audit.entries import AuditEntry, AuditFilter, AuditSource, select
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys

DEFAULT_ENTRIES = 100_000
"""Default number of entries that are kept."""

ANYTHING = AuditFilter()
"""A filter that shows every entry."""

_PAGE = 1_000
# Seconds between two looks for new entries.
_FOLLOW_INTERVAL_S = 0.5


class AuditTrail(ABC):
    """What was changed, in order.

    Attributes:
        source: where this process's changes come from.
    """

    source: AuditSource = AuditSource.CLIENT

    @property
    def in_scripts(self) -> bool:
        """Whether changes are recorded, and checked against the rules, where they are made: not on a cluster."""
        return True

    @abstractmethod
    async def record(self, entry: AuditEntry) -> None:
        """Append an entry.

        Raises:
            StoreUnavailableError: Redis is away.
        """

    @abstractmethod
    async def _read_back(self, before: str, since_ms: int, chosen: AuditFilter) -> tuple[list[AuditEntry], str]:
        """Return those of a page of entries before a position that a filter shows, the newest first.

        The second value is the position of the last entry that was looked at; empty if there was none.
        """

    @abstractmethod
    async def _read_on(self, after: str) -> list[AuditEntry]:
        """Return a page of entries behind a position, the oldest first."""

    async def read(
        self, chosen: AuditFilter = ANYTHING, *, since: float = 0.0, limit: int = 100, before: str = ""
    ) -> list[AuditEntry]:
        """Return the newest entries that a filter shows, the newest first.

        Args:
            chosen: which entries.
            since: Unix seconds: none that is older.
            limit: how many at most.
            before: the position of an entry: only those before it.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        found: list[AuditEntry] = []
        while len(found) < limit:
            page, before = await self._read_back(before, round(since * 1000), chosen)
            found += page
            if not before:
                break
        return found[:limit]

    async def follow(self, chosen: AuditFilter = ANYTHING, *, after: str = "") -> AsyncGenerator[AuditEntry]:
        """Yield each new entry that a filter shows.

        Args:
            chosen: which entries.
            after: the position of an entry, to yield those behind it too; empty for new ones.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        if not after:
            newest, _ = await self._read_back("", 0, ANYTHING)
            after = newest[0].position if newest else "0-0"
        while True:
            page = await self._read_on(after)
            for entry in page:
                after = entry.position
                if chosen.matches(entry):
                    yield entry
            if not page:
                await asyncio.sleep(_FOLLOW_INTERVAL_S)


class RedisAuditTrail(AuditTrail):
    """The audit trail of one fleet.

    Args:
        connection: the fleet's Redis.
        namespace: prefix of every key.
        source: where this process's changes come from.
    """

    def __init__(
        self,
        connection: RedisConnection,
        *,
        namespace: str = DEFAULT_NAMESPACE,
        source: AuditSource = AuditSource.CLIENT,
    ) -> None:
        self.source = source
        self._connection = connection
        self._keys = FleetKeys(namespace)

    @property
    @override
    def in_scripts(self) -> bool:
        return not self._connection.cluster

    def build_args(self, target: str, approval: str = "") -> tuple[str, ...]:
        """Return the last arguments of every script that needs ``redis/audit``.

        Args:
            target: what the script changes.
            approval: the id of the request that was approved; empty for none.
        """
        if not self.in_scripts:
            return ("", "", self.source, "", target)
        request = self._keys.approval_request(approval) if approval else ""
        return (self._keys.audit, self._keys.protections, self.source, request, target)

    @override
    async def record(self, entry: AuditEntry) -> None:
        fields = [part for item in replace(entry, source=self.source).encode().items() for part in item]
        await self._connection.execute("XADD", self._keys.audit, "*", *fields)

    async def read_time(self) -> float:
        """Return the server's time in Unix seconds, which entries have.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        seconds, micros = await self._connection.wait_bounded(self._connection.client.time())
        return seconds + micros / 1e6

    async def trim(self, entries: int) -> None:
        """Delete the oldest entries beyond about this many.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        await self._connection.execute("XTRIM", self._keys.audit, "MAXLEN", "~", entries)

    @override
    async def _read_back(self, before: str, since_ms: int, chosen: AuditFilter) -> tuple[list[AuditEntry], str]:
        newest, may_match = f"({before}" if before else "+", chosen.build_screen()
        command = ("XREVRANGE", self._keys.audit, newest, since_ms, "COUNT", _PAGE)
        entries = await self._connection.execute_read(*command)
        likely = _decode([entry for entry in entries if may_match(entry[1])])
        return select(likely, chosen), entries[-1][0].decode() if entries else ""

    @override
    async def _read_on(self, after: str) -> list[AuditEntry]:
        return _decode(
            await self._connection.execute_read("XRANGE", self._keys.audit, f"({after}", "+", "COUNT", _PAGE)
        )


class MemoryAuditTrail(AuditTrail):
    """The audit trail of a store in memory; its lock is the store's."""

    def __init__(self, entries: int = DEFAULT_ENTRIES) -> None:
        self.source = AuditSource.CLIENT
        self._entries: deque[AuditEntry] = deque(maxlen=entries)

    def append(self, entry: AuditEntry) -> None:
        """Append an entry, at the present time."""
        now = time.time()
        last = int(self._entries[-1].position.partition("-")[0]) if self._entries else 0
        position = f"{max(round(now * 1000), last + 1)}-0"
        self._entries.append(replace(entry, source=self.source, at=now, position=position))

    @override
    async def record(self, entry: AuditEntry) -> None:
        self.append(entry)

    @override
    async def _read_back(self, before: str, since_ms: int, chosen: AuditFilter) -> tuple[list[AuditEntry], str]:
        found = [
            e for e in self._entries if e.at * 1000 >= since_ms and (not before or _place(e.position) < _place(before))
        ]
        page = found[::-1][:_PAGE]
        return select(page, chosen), page[-1].position if page else ""

    @override
    async def _read_on(self, after: str) -> list[AuditEntry]:
        return [entry for entry in self._entries if _place(entry.position) > _place(after)][:_PAGE]


def _decode(entries: Sequence[tuple[bytes, Mapping[bytes, bytes]]]) -> list[AuditEntry]:
    return [AuditEntry.decode(position, fields) for position, fields in entries]


def _place(position: str) -> tuple[int, ...]:
    return tuple(map(int, position.split("-")))
