"""Requests that may be sent again: the same id is applied once and answered alike, whatever became of the first try.

Each try says on top of which token it is about to commit. A try that died is thereby told from one that committed: the
revision after that token is either its own or somebody else's.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from snakepit_bridge.elixir.errors import ElixirUnavailableError
from snakepit_bridge.elixir.write_back import WriteNotShownError
from snakepit_bridge.elixir.write_transaction import HalfWrittenError
from snakepit_bridge.exceptions import BridgeError, StoreUnavailableError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.lease import Lease, Leases, TurnLostError
from workers.gateway.errors import RequestIdConflictError

KEPT_S = 86_400
"""Seconds for which an id is remembered."""

_UNKNOWN_OUTCOMES = (StoreUnavailableError, ElixirUnavailableError, WriteNotShownError, HalfWrittenError)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a request.

    Attributes:
        answer: what an earlier try was answered.
        base: the token on top of which an earlier try that never ended was about to commit.
    """

    answer: Token | None
    base: Token | None
    _lease: Lease
    _key: str
    _digest: str

    async def record_base(self, base: Token) -> None:
        """Notes the token on top of which it is going to commit.

        Raises:
            TurnLostError: another try goes on instead; this one must not commit.
        """
        await self._store({"digest": self._digest, "base": str(base)})

    async def record_answer(self, token: Token) -> None:
        """Notes the answer. Where the turn is another's, that try finds this commit on top of what was noted."""
        with suppress(TurnLostError):
            await self._store({"digest": self._digest, "answer": str(token)})

    async def _store(self, record: dict[str, str]) -> None:
        await self._lease.note(self._key, json.dumps(record), KEPT_S)


class RequestIds:
    """The ids of requests, in Redis.

    Args:
        connection: the way to Redis.
        namespace: prefix of the keys.
    """

    def __init__(self, connection: RedisConnection, namespace: str) -> None:
        self._connection = connection
        self._namespace = namespace
        self._leases = Leases(connection)

    @asynccontextmanager
    async def attempt(self, owner: str, request_id: str, content: bytes) -> AsyncGenerator[Attempt]:
        """Holds a request while it is tried; another try of it waits meanwhile. One that is refused is forgotten.

        The turn of a gateway that was killed is another's seconds later.

        Args:
            owner: whose id it is.
            request_id: the id.
            content: what is asked, to tell another request under the same id.

        Raises:
            RequestIdConflictError: the id belongs to another request.
            StoreUnavailableError
        """
        name = hashlib.sha256(json.dumps([owner, request_id]).encode()).hexdigest()
        prefix, digest = f"{self._namespace}:{{g:{name}}}", hashlib.sha256(content).hexdigest()
        key = f"{prefix}:request"
        async with self._leases.held(f"{prefix}:turn") as turn:
            found = await self._load(key)
            if found and found["digest"] != digest:
                raise RequestIdConflictError(request_id)
            try:
                yield Attempt(_parse_token(found.get("answer")), _parse_token(found.get("base")), turn, key, digest)
            except BridgeError as exc:
                if not isinstance(exc, _UNKNOWN_OUTCOMES):
                    await turn.forget(key)
                raise

    async def _load(self, key: str) -> dict[str, str]:
        stored = await self._connection.bounded(self._connection.client.get(key))
        return json.loads(stored) if stored else {}


def _parse_token(text: str | None) -> Token | None:
    return Token.parse(text) if text else None
