"""Acknowledgements: which revision each process applies, and why one can't, so that a publisher sees a change arrive.

Kept in Redis beside the session, one field per process, with an expiry: a process that stops reporting stops counting.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

from snakepit_bridge.revision import Token
from snakepit_bridge.stores.connection import RedisConnection

# A process reports at least this often while it holds a session, and counts as gone after three silent rounds.
REPORT_EVERY_S = 5.0
_GONE_S = 3 * REPORT_EVERY_S
_KEPT_S = 600


@dataclass(frozen=True, slots=True)
class Applied:
    """What one live process says of a session.

    Attributes:
        process: Celery node and process id.
        token: the newest revision that it has looked at.
        error: why it can't apply that revision; empty where it does.
        age_s: seconds since it said so.
    """

    process: str
    token: Token
    error: str
    age_s: float

    @property
    def acknowledged(self) -> bool:
        """Whether the process applies the revision."""
        return not self.error


class Acks:
    """The acknowledgements of one Redis.

    Args:
        connection: the way to it.
        namespace: prefix of every key.
    """

    def __init__(self, connection: RedisConnection, *, namespace: str = "dspex") -> None:
        self._connection = connection
        self._namespace = namespace
        self._said: dict[str, tuple[str, float]] = {}

    async def report(self, session: str, process: str, token: Token, error: str = "") -> None:
        """Says which revision a process applies; costs nothing while that stays the same, but for a sign of life.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        message = json.dumps({"token": str(token), "error": error})
        before, when = self._said.get(session, ("", 0.0))
        if message == before and time.monotonic() - when < REPORT_EVERY_S:
            return
        self._said[session] = (message, time.monotonic())
        seconds, micros = await self._connection.bounded(self._connection.client.time())
        pipeline = self._connection.client.pipeline(transaction=False)
        pipeline.hset(self._key(session), process, json.dumps({**json.loads(message), "at": seconds + micros / 1e6}))
        pipeline.expire(self._key(session), _KEPT_S)
        await self._connection.bounded(pipeline.execute())

    async def applied(self, session: str) -> list[Applied]:
        """Returns what each live process that holds the session says, by process.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        pipeline = self._connection.client.pipeline(transaction=False)
        pipeline.time()
        pipeline.hgetall(self._key(session))
        (seconds, micros), fields = await self._connection.bounded(pipeline.execute())
        now = seconds + micros / 1e6
        said = (_read(name, value, now) for name, value in cast(Mapping[bytes, bytes], fields).items())
        return sorted((one for one in said if one.age_s <= _GONE_S), key=lambda one: one.process)

    async def forget(self, session: str, process: str) -> None:
        """Takes a process back that no longer holds the session."""
        self._said.pop(session, None)
        await self._connection.bounded(self._connection.client.hdel(self._key(session), process))

    def _key(self, session: str) -> str:
        return f"{self._namespace}:{{s:{session}}}:applied"


def _read(process: bytes, value: bytes, now: float) -> Applied:
    said: dict[str, Any] = json.loads(value)
    return Applied(process.decode(), Token.parse(said["token"]), said["error"], max(0.0, now - said["at"]))
