"""Requests that may be sent again: the same id is applied once and answered alike, whatever became of the first try.

Each try says on top of which token it is about to commit. A try that died is thereby told from one that committed: the
revision after that token is either its own or somebody else's.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass

from redis.asyncio.lock import Lock
from redis.exceptions import LockError

from snakepit_bridge.exceptions import BridgeError, StoreUnavailableError
from snakepit_bridge.revision import Token
from snakepit_bridge.stores.connection import RedisConnection
from snakepit_bridge.wire.errors import ElixirUnavailableError
from snakepit_bridge.wire.writeback import WriteNotShownError
from snakepit_bridge.wire.writing import HalfWrittenError
from workers.gateway.errors import RequestIdConflictError

KEPT_S = 86_400
"""Seconds for which an id is remembered."""

_LEASE_S = 60
_LOOK_S = 0.05
_UNKNOWN = (StoreUnavailableError, ElixirUnavailableError, WriteNotShownError, HalfWrittenError)


@dataclass(slots=True)
class Try:
    """One try of a request.

    Attributes:
        answer: what an earlier try was answered.
        base: the token on top of which an earlier try that never ended was about to commit.
    """

    answer: Token | None
    base: Token | None
    _ids: RequestIds
    _key: str
    _digest: str

    async def about_to_commit(self, base: Token) -> None:
        """Notes the token on top of which it is going to commit."""
        await self._ids.note(self._key, {"digest": self._digest, "base": str(base)})

    async def done(self, token: Token) -> None:
        """Notes the answer."""
        await self._ids.note(self._key, {"digest": self._digest, "answer": str(token)})


class RequestIds:
    """The ids of requests, in Redis.

    Args:
        connection: the way to Redis.
        namespace: prefix of the keys.
    """

    def __init__(self, connection: RedisConnection, namespace: str) -> None:
        self._connection = connection
        self._namespace = namespace

    @asynccontextmanager
    async def trying(self, owner: str, request_id: str, content: bytes) -> AsyncGenerator[Try]:
        """Holds a request while it is tried; another try of it waits meanwhile. One that is refused is forgotten.

        Args:
            owner: whose id it is.
            request_id: the id.
            content: what is asked, to tell another request under the same id.

        Raises:
            RequestIdConflictError: the id belongs to another request.
            StoreUnavailableError
        """
        name = hashlib.sha256(json.dumps([owner, request_id]).encode()).hexdigest()
        key, digest = f"{self._namespace}:{{g:{name}}}", hashlib.sha256(content).hexdigest()
        async with self._turn(key):
            found = await self._found(key)
            if found and found["digest"] != digest:
                raise RequestIdConflictError(request_id)
            try:
                yield Try(_token(found.get("answer")), _token(found.get("base")), self, key, digest)
            except BridgeError as error:
                if not isinstance(error, _UNKNOWN):
                    await self._forget(key)
                raise

    async def note(self, key: str, record: dict[str, str]) -> None:
        """Keeps a record of a request."""
        await self._connection.bounded(self._connection.client.set(f"{key}:request", json.dumps(record), ex=KEPT_S))

    @asynccontextmanager
    async def _turn(self, key: str) -> AsyncGenerator[None]:
        """Holds the request's turn. One that died with it gives it back when its lease is over."""
        lock = self._connection.client.lock(f"{key}:turn", timeout=_LEASE_S)
        while not await self._taken(lock):  # noqa: ASYNC110 - it is held in another process
            await asyncio.sleep(_LOOK_S)
        try:
            yield
        finally:
            await asyncio.shield(self._given_back(lock))

    async def _taken(self, lock: Lock) -> bool:
        """Tells whether the turn was free. A caller who hangs up meanwhile doesn't leave it taken."""
        taking = asyncio.ensure_future(self._connection.bounded(lock.acquire(blocking=False)))
        try:
            return await asyncio.shield(taking)
        except asyncio.CancelledError:
            with suppress(StoreUnavailableError):  # then its lease ends it
                if await taking:
                    await self._given_back(lock)
            raise

    async def _given_back(self, lock: Lock) -> None:
        with suppress(LockError):  # it took longer than the lease, so the turn is another's now
            await self._connection.bounded(lock.release())

    async def _found(self, key: str) -> dict[str, str]:
        stored = await self._connection.bounded(self._connection.client.get(f"{key}:request"))
        return json.loads(stored) if stored else {}

    async def _forget(self, key: str) -> None:
        await self._connection.bounded(self._connection.client.delete(f"{key}:request"))


def _token(text: str | None) -> Token | None:
    return Token.parse(text) if text else None
