"""Acknowledgements: which revision each process has applied, or why it failed, so that publishers can track a change.

A process reports its revision in a hash next to the session, whenever it changes. It sends one heartbeat for all its
sessions; reports count only while the heartbeats go on.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys

# Interval of heartbeats; a process counts as gone after three missed ones.
HEARTBEAT_INTERVAL_S = 5.0
_GONE_S = 3 * HEARTBEAT_INTERVAL_S
_KEPT_S = 86_400
# Sessions per pipeline.
_BATCH_SIZE = 100


@dataclass(frozen=True, slots=True)
class AckReport:
    """A process's report on a session: the newest token that it tried to apply, and the error if it failed."""

    token: Token
    error: str = ""


@dataclass(frozen=True, slots=True)
class ProcessAck:
    """The acknowledgement of a session's revision by a live process.

    Attributes:
        process: Celery node and process id.
        token: the newest revision that it tried to apply.
        error: why it couldn't apply that revision; empty if it did.
    """

    process: str
    token: Token
    error: str

    def acknowledges(self, token: Token) -> bool:
        """Check whether the process has applied this revision or a newer one."""
        return not self.error and self.token >= token


class Acks:
    """The acknowledgements in one Redis.

    Args:
        connection: the Redis.
        namespace: prefix of every key.
    """

    def __init__(self, connection: RedisConnection, *, namespace: str = DEFAULT_NAMESPACE) -> None:
        self._connection = connection
        self._keys = FleetKeys(namespace)

    async def heartbeat(self, process: str) -> None:
        """Send a process's heartbeat.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        now = await self._now()
        processes = self._processes
        await self._connection.send_each([
            ("ZADD", processes, now, process),
            ("ZREMRANGEBYSCORE", processes, "-inf", now - _GONE_S),
            ("EXPIRE", processes, _KEPT_S),
        ])  # fmt: skip

    async def report(self, process: str, reports: Mapping[str, AckReport]) -> None:
        """Report the revisions that a process applies, by session, in one round trip.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        commands: list[tuple[Any, ...]] = []
        for session, report in reports.items():
            message = json.dumps({"token": str(report.token), "error": report.error})
            commands += [("HSET", self._key(session), process, message), ("EXPIRE", self._key(session), _KEPT_S)]
        await self._connection.send_each(commands)

    async def forget(self, process: str, sessions: Iterable[str]) -> None:
        """Delete a process's reports on sessions that it no longer holds.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        await self._connection.send_each([("HDEL", self._key(session), process) for session in sessions])

    async def read_acks(self, session: str) -> list[ProcessAck]:
        """Return the acknowledgements of the live processes that hold the session, sorted by process.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        return (await self.read_all([session]))[session]

    async def read_all(self, sessions: Iterable[str]) -> dict[str, list[ProcessAck]]:
        """Return the acknowledgements of many sessions, as ``read_acks`` does of one.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        names, live, found = list(sessions), await self._live_processes(), dict[str, list[ProcessAck]]()
        for start in range(0, len(names), _BATCH_SIZE):
            batch = names[start : start + _BATCH_SIZE]
            stored = await self._connection.send_each([("HGETALL", self._key(session)) for session in batch])
            for session, reports in zip(batch, cast("list[Mapping[bytes, bytes]]", stored), strict=True):
                found[session] = [_read(process, reports[process]) for process in live if process in reports]
        return found

    async def count_processes(self) -> int:
        """Return how many worker processes are live.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        return len(await self._live_processes())

    async def _live_processes(self) -> list[bytes]:
        since = await self._now() - _GONE_S
        (live,) = await self._connection.send_each([("ZRANGE", self._processes, since, "+inf", "BYSCORE")])
        return sorted(cast("list[bytes]", live))

    @property
    def _processes(self) -> str:
        return self._keys.processes

    def _key(self, session: str) -> str:
        return self._keys.applied_revisions(session)

    async def _now(self) -> float:
        """Return the server's time in Unix seconds, since all processes share its clock."""
        seconds, micros = await self._connection.wait_bounded(self._connection.client.time())
        return seconds + micros / 1e6


def _read(process: bytes, value: bytes) -> ProcessAck:
    report: dict[str, Any] = json.loads(value)
    return ProcessAck(process.decode(), Token.parse(report["token"]), report["error"])
