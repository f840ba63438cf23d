"""Recorded predictions: what the commit of a result adds to the stream of its program, and what is read from there."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Self

from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.protocol.json_values import dumps, loads
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.scripts import source

RECORD = source("snakepit_bridge.datasets", "record")
"""The Lua function ``add_record``, for the script that commits results."""

MAX_RECORD_BYTES = 256 * 1024
"""The largest record in bytes; a larger prediction isn't recorded."""

_PAGE = 200
# Later pages are larger, since most of what a search looks at is found in no time: up to so many records, and bytes.
_MAX_PAGE, _MAX_PAGE_BYTES = 500, 4 * 1024 * 1024
_RECORD = "record"


@dataclass(frozen=True, slots=True)
class RecordedPrediction:
    """A finished prediction, as its program's recorder kept it.

    Attributes:
        task_id: the prediction.
        program: name of the program, and ``version`` its number; 0 if it failed before it was known.
        session: the session, and ``token`` its revision; empty if it failed before it was known.
        inputs: what is kept of its inputs, and ``outputs`` of its outputs.
        error: the class of its error; empty if it succeeded.
        model: the LM's model string; empty if it failed.
        arms: the arms of rollouts and experiments that it ran under.
        at: when it ended, in Unix seconds of the server's clock.
        position: its place among those of its program.
    """

    task_id: str
    program: str
    version: int
    session: str
    token: str
    inputs: Mapping[str, Any]
    outputs: Mapping[str, Any]
    error: str = ""
    model: str = ""
    arms: Sequence[Mapping[str, Any]] = field(default_factory=list[Mapping[str, Any]])
    at: float = 0.0
    position: str = ""

    def encode(self, cipher: Cipher = PLAIN) -> bytes:
        """Return the record, which lacks the id and the time: the stream's entry has both."""
        record = dumps({name: getattr(self, name) for name in _STORED}).encode()
        return cipher.encrypt(_RECORD, (self.task_id,), record)

    @classmethod
    def decode(cls, entry_id: bytes, task_id: str, record: bytes, cipher: Cipher = PLAIN) -> Self:
        """Decode an entry of a stream; fields that a newer worker added are ignored.

        Raises:
            DecryptionError: it can't be decrypted.
        """
        found: dict[str, Any] = loads(cipher.decrypt(_RECORD, (task_id,), record))
        place = {"at": _read_time(entry_id), "position": entry_id.decode()}
        return cls(task_id, **place, **{name: found[name] for name in _STORED if name in found})


_STORED = tuple(each.name for each in fields(RecordedPrediction) if each.name not in ("task_id", "at", "position"))


@dataclass(frozen=True, slots=True)
class RecordCount:
    """What is recorded of a program.

    Attributes:
        records: how many predictions.
        oldest: when the first of them ended, in Unix seconds; 0 if there are none.
    """

    records: int
    oldest: float


class RecordedPredictions:
    """The recorded predictions of a fleet.

    Args:
        connection: to the Redis of the results.
        namespace: the fleet's.
        cipher: decrypts the records.
    """

    def __init__(self, connection: RedisConnection, namespace: str, cipher: Cipher = PLAIN) -> None:
        self._connection = connection
        self._cipher = cipher
        self._keys = FleetKeys(namespace)

    async def read(
        self, program: str, *, since: float = 0.0, until: str = "+", page_size: int = _PAGE
    ) -> AsyncGenerator[list[RecordedPrediction]]:
        """Yield the recorded predictions of a program in lists, newest first, which grow where records are small.

        Args:
            program: its name.
            since: only those that ended at this time or later, in Unix seconds.
            until: only those up to this position, or before it if it begins with ``(``.
            page_size: how many the first list has.

        Raises:
            DecryptionError: a record can't be decrypted.
            StoreUnavailableError: Redis is away.
        """
        key, newest, oldest = self._keys.program_records(program), until, str(max(0, int(since * 1_000)))
        size = page_size
        while True:
            reply = await self._connection.execute("XREVRANGE", key, newest, oldest, "COUNT", size)
            entries = [(entry_id, _to_mapping(values)) for entry_id, values in reply]
            if entries:
                yield [self._decode(*entry) for entry in entries]
            if len(entries) < size:
                return
            newest = f"({entries[-1][0].decode()}"
            largest = max(len(values[b"record"]) for _, values in entries)
            size = max(page_size, min(2 * size, _MAX_PAGE, _MAX_PAGE_BYTES // largest))

    async def find(self, task_id: str) -> RecordedPrediction | None:
        """Return a prediction as it is recorded; None if it isn't.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        place: bytes = await self._connection.execute("GET", self._keys.prediction_recorded(task_id)) or b""
        position, _, key = place.partition(b" ")
        if not key:
            return None
        entries = await self._connection.execute("XRANGE", key, position, position)
        return self._decode(entries[0][0], _to_mapping(entries[0][1])) if entries else None

    async def count(self, program: str) -> RecordCount:
        """Return how many predictions of a program are recorded.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        key = self._keys.program_records(program)
        commands = (("XLEN", key), ("XRANGE", key, "-", "+", "COUNT", 1))
        records, first = await self._connection.send_each(commands)
        return RecordCount(records, _read_time(first[0][0]) if first else 0.0)

    def _decode(self, entry_id: bytes, values: Mapping[bytes, bytes]) -> RecordedPrediction:
        return RecordedPrediction.decode(entry_id, values[b"task"].decode(), values[b"record"], self._cipher)

    async def erase(self, program: str) -> None:
        """Remove the recorded predictions of a program.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        await self._connection.execute("UNLINK", self._keys.program_records(program))


def record_arguments(
    keys: FleetKeys, program: str, task_id: str, record: bytes, *, max_records: int, expires_s: int, first_key: int
) -> tuple[list[str], list[Any]]:
    """Return the keys and arguments by which ``add_record`` records a prediction.

    Args:
        keys: the fleet's.
        program: name of the program.
        task_id: the prediction.
        record: the record.
        max_records: how many the program's stream keeps.
        expires_s: seconds for which it keeps them.
        first_key: the index of the first of these keys among those of the script, from 1.
    """
    names = [keys.program_records(program), keys.prediction_recorded(task_id)]
    return names, [first_key, max_records, expires_s, task_id, record]


def _to_mapping(values: Any) -> Mapping[bytes, bytes]:
    """Return the fields of an entry, which redis-py gives as a mapping or, for a raw command, as a list."""
    return values if isinstance(values, Mapping) else dict(zip(values[::2], values[1::2], strict=True))


def _read_time(entry_id: bytes) -> float:
    """Return when an entry was added, in Unix seconds."""
    return int(entry_id.partition(b"-")[0]) / 1_000
