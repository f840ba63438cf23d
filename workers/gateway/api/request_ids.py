"""Idempotent requests: a request id is applied once and always answered alike, whatever happened to earlier attempts.

Each attempt records what it is about to change: a token, or the last event of a rollout. If it died, a later attempt
can tell whether it had made the change: what came after that is either its own or another's.
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
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.lease import Lease, LeaseLostError, Leases
from workers.gateway.errors import RequestIdConflictError

KEPT_S = 86_400
"""Seconds for which an id is kept."""

_UNKNOWN_OUTCOMES = (StoreUnavailableError, ElixirUnavailableError, WriteNotShownError, HalfWrittenError)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt at a request.

    Attributes:
        answer: what an earlier attempt answered, if one finished.
        base: what an unfinished earlier attempt was about to change: a token, or the position of a rollout's last
            event.
    """

    answer: str | None
    base: str | None
    _lease: Lease
    _key: str
    _digest: str

    async def record_base(self, base: str) -> None:
        """Record what this attempt is about to change.

        Raises:
            LeaseLostError: another attempt has taken over; this one must not commit.
            StoreUnavailableError: Redis can't be reached.
        """
        await self._store({"digest": self._digest, "base": base})

    async def record_answer(self, answer: str) -> None:
        """Record the answer. If another attempt has taken over, it finds this one's change by the recorded base."""
        with suppress(LeaseLostError):
            await self._store({"digest": self._digest, "answer": answer})

    async def _store(self, record: dict[str, str]) -> None:
        await self._lease.write_record(self._key, json.dumps(record), KEPT_S)


class RequestIds:
    """Request ids in Redis.

    Args:
        connection: the connection to Redis.
        namespace: prefix of the keys.
    """

    def __init__(self, connection: RedisConnection, namespace: str) -> None:
        self._connection = connection
        self._keys = FleetKeys(namespace)
        self._leases = Leases(connection)

    @asynccontextmanager
    async def attempt(self, owner: str, request_id: str, content: bytes) -> AsyncGenerator[Attempt]:
        """Hold the lease of a request while it is attempted; concurrent attempts wait. A rejected request is forgotten.

        The lease of a gateway that was killed expires within seconds.

        Args:
            owner: the name of the client's grant.
            request_id: the id.
            content: the serialized request, to detect the reuse of an id for another one.

        Raises:
            RequestIdConflictError: the id belongs to another request.
            StoreUnavailableError: Redis can't be reached.
        """
        name = hashlib.sha256(json.dumps([owner, request_id]).encode()).hexdigest()
        digest = hashlib.sha256(content).hexdigest()
        key = self._keys.gateway_request(name)
        async with self._leases.acquire(self._keys.gateway_turn(name)) as lease:
            record = await self._load(key)
            if record and record["digest"] != digest:
                raise RequestIdConflictError(request_id)
            try:
                yield Attempt(record.get("answer"), record.get("base"), lease, key, digest)
            except BridgeError as exc:
                if not isinstance(exc, _UNKNOWN_OUTCOMES):
                    await lease.delete_record(key)
                raise

    async def _load(self, key: str) -> dict[str, str]:
        stored = await self._connection.wait_bounded(self._connection.client.get(key))
        return json.loads(stored) if stored else {}
