"""Payloads: inputs and results too large for a message are stored separately, under the digest of their content.

Broker and result backend are made for small values, and a client that polls a task's state shouldn't fetch megabytes.
The message holds a reference instead; the reader verifies the payload against the digest.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

from snakepit_bridge.exceptions import PayloadLostError
from snakepit_bridge.protocol.json_values import dumps, loads
from snakepit_bridge.protocol.messages import VERSION, Result
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys

# A reference is a string, while inputs and results are objects, so they can't be confused.
_PREFIX = "payload:"

DEFAULT_LIMIT_BYTES = 256 * 1024
"""Default size in bytes above which inputs and results are stored as payloads."""

# Larger payloads are hashed in a thread, since hashing would block the loop for milliseconds.
_LARGE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Payloads:
    """The payloads of a fleet.

    Attributes:
        connection: the Redis of the payloads.
        namespace: prefix of their keys.
        limit: size in bytes above which a value is stored as a payload.
    """

    connection: RedisConnection
    namespace: str
    limit_bytes: int = DEFAULT_LIMIT_BYTES

    def fits(self, value: Any) -> bool:
        """Check whether a JSON value is small enough for a message."""
        return estimate_bytes(value, self.limit_bytes) <= self.limit_bytes

    async def put(self, value: Any, keep_s: float) -> str:
        """Store a JSON value and return the reference to it.

        Args:
            value: the value.
            keep_s: minimum TTL in seconds.

        Raises:
            StoreUnavailableError: Redis is unreachable.
            TypeError, ValueError: a message can't hold the value.
        """
        # Not sorted: the order of an object's keys matters to the prompt.
        data = dumps(value).encode()
        digest = await _digest(data)
        key, seconds = self._key(digest), max(1, round(keep_s))
        # Equal content may be stored already, with a longer or shorter TTL.
        await self.connection.send_each([("SET", key, data, "EX", seconds, "NX"), ("EXPIRE", key, seconds, "GT")])
        return f"{_PREFIX}{digest}:{len(data)}"

    async def get(self, reference: str) -> Any:
        """Return the value of a reference.

        Raises:
            PayloadLostError: the payload is gone, or has another digest.
            StoreUnavailableError: Redis is unreachable.
        """
        digest = _extract_digest(reference)
        data = cast("bytes | None", await self.connection.wait_bounded(self.connection.client.get(self._key(digest))))
        if data is None:
            raise PayloadLostError(digest, "it has expired, or Redis lost it")
        if await _digest(data) != digest:
            raise PayloadLostError(digest, "what is stored there has another digest")
        return loads(data)

    async def encode_result(self, result: Result, keep_s: float) -> dict[str, Any]:
        """Return a result's JSON form for the backend, with a reference to its payload if it is too large.

        Args:
            result: the result.
            keep_s: minimum TTL of its payloads in seconds.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        encoded = result.encode()
        if is_reference(result.inputs):
            await self.extend_ttl(result.inputs, keep_s)
        # The parts of unbounded size; the rest of a result is small.
        large_parts = (result.outputs, result.inputs, result.completions, result.provenance.get("variables"))
        if self.fits(large_parts):
            return encoded
        return {"v": VERSION, "payload": await self.put(encoded, keep_s)}

    async def load_result(self, result: Result) -> Result:
        """Return a result with its outputs, loaded if they were stored as a payload.

        Raises:
            PayloadLostError: the payload is gone, or has another digest.
            StoreUnavailableError: Redis is unreachable.
        """
        return result if result.payload is None else Result.decode(await self.get(result.payload))

    async def extend_ttl(self, reference: str, keep_s: float) -> None:
        """Extend the TTL of a payload to at least ``keep_s`` seconds, if it exists.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        key = self._key(_extract_digest(reference))
        await self.connection.send_each([("EXPIRE", key, max(1, round(keep_s)), "GT")])

    def _key(self, digest: str) -> str:
        return FleetKeys(self.namespace).payload(digest)


def is_reference(value: object) -> TypeGuard[str]:
    """Check whether a value is a payload reference."""
    return isinstance(value, str) and value.startswith(_PREFIX)


def _extract_digest(reference: str) -> str:
    return reference.removeprefix(_PREFIX).partition(":")[0]


def estimate_bytes(value: Any, enough: int) -> int:
    """Estimate a JSON value's size in bytes; stop counting above ``enough``.

    Runs for every result, most of which are small: no recursion, and the exact types are tested first.
    """
    total, left = 0, [value]
    while left and total <= enough:
        item = left.pop()
        kind = type(item)
        if kind is str:
            total += len(item) + 2
        elif kind is dict:
            left += item
            left += item.values()
        elif kind is list or isinstance(item, (list, tuple)):
            left += item
        elif isinstance(item, Mapping):
            left += cast("Mapping[str, Any]", item).items()
        else:
            total += 8
    return total


async def _digest(data: bytes) -> str:
    digest = hashlib.sha256(data) if len(data) < _LARGE_BYTES else await asyncio.to_thread(hashlib.sha256, data)
    return digest.hexdigest()
