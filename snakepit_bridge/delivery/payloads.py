"""Payloads: inputs and results too large for a message are stored separately, under the digest of their content.

Broker and result backend are made for small values, and a client that polls a task's state shouldn't fetch megabytes.
The message holds a reference instead; the reader verifies the payload against the digest.

With encryption, what is small enough for a message is carried in it as an encrypted text, which takes the reference's
place. A payload is then named by the digest of its ciphertext, so that equal contents can't be told.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeGuard, cast

from snakepit_bridge.encryption.cipher import PLAIN, Cipher, is_encrypted, kind_of
from snakepit_bridge.exceptions import DecryptionError, PayloadLostError
from snakepit_bridge.protocol.json_values import dumps, loads
from snakepit_bridge.protocol.messages import VERSION, Result
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys

# A reference is a string, while inputs and results are objects, so they can't be confused.
_PREFIX = "payload:"

DEFAULT_LIMIT_BYTES = 256 * 1024
"""Default size in bytes above which inputs and results are stored as payloads."""

# Kinds of encrypted values: inputs are bound to their task, those of a canvas's step, whose id isn't known yet, to
# their program, and a result says itself whose it is.
_INPUTS, _STEP_INPUTS, _RESULT, _PAYLOAD = "inputs", "step-inputs", "result", "payload"

# Larger payloads are hashed in a thread, since hashing would block the loop for milliseconds.
_LARGE_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Payloads:
    """The payloads of a fleet.

    Attributes:
        connection: the Redis of the payloads.
        namespace: prefix of their keys.
        limit: size in bytes above which a value is stored as a payload.
        cipher: encrypts payloads, and the inputs and results of messages.
    """

    connection: RedisConnection
    namespace: str
    limit_bytes: int = DEFAULT_LIMIT_BYTES
    cipher: Cipher = PLAIN

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
        data = self.cipher.encrypt(_PAYLOAD, (), dumps(value).encode())
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
        return loads(self.cipher.decrypt(_PAYLOAD, (), data))

    def encrypt_inputs(self, inputs: Any, task_id: str) -> Any:
        """Return a task's inputs, or the reference to them, as its message carries them."""
        return self.cipher.encrypt_text(_INPUTS, (task_id,), dumps(inputs).encode()) if self.cipher.is_on else inputs

    def encrypt_step_inputs(self, inputs: Any, program: str) -> Any:
        """Return the inputs of a canvas's step as :meth:`encrypt_inputs` does; any task of the program can use them."""
        if not self.cipher.is_on:
            return inputs
        return self.cipher.encrypt_text(_STEP_INPUTS, (program,), dumps(inputs).encode())

    def decrypt_inputs(self, carried: Any, task_id: str, program: str) -> Any:
        """Return the inputs of a message, or the reference to them; what isn't encrypted is returned unchanged.

        Raises:
            DecryptionError: they are another task's, were changed, or there is no such key.
        """
        if not is_encrypted(carried):
            return carried
        place = program if kind_of(carried) == _STEP_INPUTS else task_id
        return loads(self.cipher.decrypt_text(carried, (place,)))

    def check_key(self, carried: Any) -> None:
        """Check that there is a key for inputs that a message carries, if they are encrypted.

        Raises:
            DecryptionError: there isn't.
        """
        if is_encrypted(carried):
            self.cipher.check_key(carried)

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
        large_parts = (
            result.outputs,
            result.inputs,
            result.completions,
            result.trace,
            result.provenance.get("variables"),
        )
        if self.fits(large_parts):
            return self._encrypt_result(encoded) if self.cipher.is_on else encoded
        return {"v": VERSION, "payload": await self.put(encoded, keep_s)}

    def _encrypt_result(self, encoded: Mapping[str, Any]) -> dict[str, Any]:
        return {"v": VERSION, "payload": self.cipher.encrypt_text(_RESULT, (), dumps(encoded).encode())}

    async def load_result(self, result: Result, task_id: str = "") -> Result:
        """Return a result with its outputs, loaded if they were stored as a payload, and decrypted.

        Args:
            result: the result.
            task_id: the task that it must be of, if that is known.

        Raises:
            PayloadLostError: the payload is gone, or has another digest.
            DecryptionError: it is another task's, was changed, isn't encrypted and has to be, or there is no such key.
            StoreUnavailableError: Redis is unreachable.
        """
        if result.payload is None:
            if self.cipher.is_on:
                self.cipher.check_plain(_RESULT, (task_id,))
            return result
        if is_encrypted(result.payload):
            loaded = Result.decode(loads(self.cipher.decrypt_text(result.payload, ())))
        else:
            loaded = Result.decode(await self.get(result.payload))
        if self.cipher.is_on and task_id and loaded.provenance.get("task_id") != task_id:
            raise DecryptionError(f"the result of prediction {task_id}", "it is another prediction's")
        return loaded

    async def extend_ttl(self, reference: str, keep_s: float) -> None:
        """Extend the TTL of a payload to at least ``keep_s`` seconds, if it exists.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        key = self._key(_extract_digest(reference))
        await self.connection.send_each([("EXPIRE", key, max(1, round(keep_s)), "GT")])

    def key_of(self, reference: str) -> str:
        """Return the key of a reference's payload."""
        return self._key(_extract_digest(reference))

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
