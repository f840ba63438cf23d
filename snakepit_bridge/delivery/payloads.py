"""Payloads: inputs and results too large for a message travel beside it, under the digest of their content.

A broker's lists and a result backend are made for small things, and a client that looks at how a task stands shouldn't
fetch megabytes. What travels in the message instead is a reference; whoever follows it checks what he got.
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

# A reference is text, where inputs and results are objects: nothing in these can be taken for one.
_MARK = "payload:"

LIMIT = 256 * 1024
"""Bytes beyond which inputs and results go by reference, unless a setting says otherwise."""

# Digests of more than this are made in a thread: they would hold up the loop for milliseconds.
_LARGE = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Payloads:
    """The payloads of a fleet.

    Attributes:
        connection: the Redis that holds them.
        namespace: prefix of their keys.
        limit: bytes beyond which a value goes by reference.
    """

    connection: RedisConnection
    namespace: str
    limit: int = LIMIT

    def fits(self, value: Any) -> bool:
        """Tells whether a JSON value may travel in a message; costs little where it plainly does."""
        return weight(value, self.limit) <= self.limit

    async def put(self, value: Any, keep_s: float) -> str:
        """Stores a JSON value for at least so many seconds and returns the reference to it.

        Raises:
            StoreUnavailableError: Redis is away.
            TypeError, ValueError: it is nothing that a message could hold.
        """
        # Not sorted: the order of an object's keys is that of the prompt.
        data = dumps(value).encode()
        digest = await _digest(data)
        key, seconds = self._key(digest), max(1, round(keep_s))
        # Equal content may be stored already, for longer or for shorter than this needs it.
        await self.connection.send_each([("SET", key, data, "EX", seconds, "NX"), ("EXPIRE", key, seconds, "GT")])
        return f"{_MARK}{digest}:{len(data)}"

    async def get(self, reference: str) -> Any:
        """Returns the value that a reference stands for.

        Raises:
            PayloadLostError: it isn't there any more, or isn't what the reference means.
            StoreUnavailableError: Redis is away.
        """
        digest = _digest_in(reference)
        data = cast("bytes | None", await self.connection.bounded(self.connection.client.get(self._key(digest))))
        if data is None:
            raise PayloadLostError(digest, "it has expired, or Redis lost it")
        if await _digest(data) != digest:
            raise PayloadLostError(digest, "what is stored there has another digest")
        return loads(data)

    async def message(self, result: Result, keep_s: float) -> dict[str, Any]:
        """Returns the JSON form in which a result is stored: itself, or a reference to it if it is too large.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        encoded = result.encode()
        if is_reference(result.inputs):
            await self.keep(result.inputs, keep_s)
        # All that somebody else decides the size of; the rest of a result is small.
        said = (result.outputs, result.inputs, result.completions, result.provenance.get("variables"))
        if self.fits(said):
            return encoded
        return {"v": VERSION, "payload": await self.put(encoded, keep_s)}

    async def whole(self, result: Result) -> Result:
        """Returns a result with its outputs at hand, fetched if it was stored by reference.

        Raises:
            PayloadLostError: it isn't there any more, or isn't what the reference means.
            StoreUnavailableError: Redis is away.
        """
        return result if result.payload is None else Result.decode(await self.get(result.payload))

    async def keep(self, reference: str, keep_s: float) -> None:
        """Keeps a payload for at least so many more seconds, if it is there.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        key = self._key(_digest_in(reference))
        await self.connection.send_each([("EXPIRE", key, max(1, round(keep_s)), "GT")])

    def _key(self, digest: str) -> str:
        return f"{self.namespace}:payload:{digest}"


def is_reference(value: object) -> TypeGuard[str]:
    """Tells a reference from inputs or a result."""
    return isinstance(value, str) and value.startswith(_MARK)


def _digest_in(reference: str) -> str:
    return reference.removeprefix(_MARK).partition(":")[0]


def weight(value: Any, enough: int) -> int:
    """Returns about how many bytes a JSON value takes; it stops counting once there are more than ``enough``.

    It runs for every result, most of which are small: no recursion, and the exact types first.
    """
    total, left = 0, [value]
    while left and total <= enough:
        one = left.pop()
        kind = type(one)
        if kind is str:
            total += len(one) + 2
        elif kind is dict:
            left += one
            left += one.values()
        elif kind is list or isinstance(one, (list, tuple)):
            left += one
        elif isinstance(one, Mapping):
            left += cast("Mapping[str, Any]", one).items()
        else:
            total += 8
    return total


async def _digest(data: bytes) -> str:
    made = hashlib.sha256(data) if len(data) < _LARGE else await asyncio.to_thread(hashlib.sha256, data)
    return made.hexdigest()
