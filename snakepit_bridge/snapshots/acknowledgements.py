"""Acknowledgements: which revision each process applies, and why one can't, so that a publisher sees a change arrive.

A process says what it applies when that changes, in a hash beside the session. That it lives it says once for all its
sessions; what a process said counts only while it lives.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection

# A process shows this often that it lives, and counts as gone after three silent rounds.
ALIVE_EVERY_S = 5.0
_GONE_S = 3 * ALIVE_EVERY_S
_KEPT_S = 86_400


@dataclass(frozen=True, slots=True)
class AckReport:
    """What a process says of a session: the newest token it looked at, and why it can't apply that, if it can't."""

    token: Token
    error: str = ""


@dataclass(frozen=True, slots=True)
class ProcessAck:
    """What one live process says of a session that it holds.

    Attributes:
        process: Celery node and process id.
        token: the newest revision that it has looked at.
        error: why it can't apply that revision; empty where it does.
    """

    process: str
    token: Token
    error: str

    def acknowledges(self, token: Token) -> bool:
        """Tells whether the process applies this revision or a newer one."""
        return not self.error and self.token >= token


class Acks:
    """The acknowledgements of one Redis.

    Args:
        connection: the way to it.
        namespace: prefix of every key.
    """

    def __init__(self, connection: RedisConnection, *, namespace: str = "dspex") -> None:
        self._connection = connection
        self._namespace = namespace

    async def alive(self, process: str) -> None:
        """Says that a process lives.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        now = await self._now()
        processes = self._processes
        await self._connection.send_each([
            ("ZADD", processes, now, process),
            ("ZREMRANGEBYSCORE", processes, "-inf", now - _GONE_S),
            ("EXPIRE", processes, _KEPT_S),
        ])  # fmt: skip

    async def report(self, process: str, reports: Mapping[str, AckReport]) -> None:
        """Says which revision a process applies, by session, all of them in one round trip.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        commands: list[tuple[Any, ...]] = []
        for session, said in reports.items():
            message = json.dumps({"token": str(said.token), "error": said.error})
            commands += [("HSET", self._key(session), process, message), ("EXPIRE", self._key(session), _KEPT_S)]
        await self._connection.send_each(commands)

    async def forget(self, process: str, sessions: Iterable[str]) -> None:
        """Takes back what a process said of sessions that it no longer holds.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        await self._connection.send_each([("HDEL", self._key(session), process) for session in sessions])

    async def applied(self, session: str) -> list[ProcessAck]:
        """Returns what each live process that holds the session says, by process.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        since = await self._now() - _GONE_S
        said, live = await self._connection.send_each(
            [("HGETALL", self._key(session)), ("ZRANGE", self._processes, since, "+inf", "BYSCORE")]
        )
        reports = cast(Mapping[bytes, bytes], said)
        return [_read(process, reports[process]) for process in sorted(cast(list[bytes], live)) if process in reports]

    @property
    def _processes(self) -> str:
        return f"{self._namespace}:processes"

    def _key(self, session: str) -> str:
        return f"{self._namespace}:{{s:{session}}}:applied"

    async def _now(self) -> float:
        """Seconds by the server's clock, which all processes share."""
        seconds, micros = await self._connection.bounded(self._connection.client.time())
        return seconds + micros / 1e6


def _read(process: bytes, value: bytes) -> ProcessAck:
    said: dict[str, Any] = json.loads(value)
    return ProcessAck(process.decode(), Token.parse(said["token"]), said["error"])
