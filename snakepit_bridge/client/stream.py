"""Streaming: how a client reads the chunks of an answer while a worker writes them.

Chunks are stored in a bounded Redis stream that expires; a pub/sub channel of the same name announces new ones. So a
reader that begins late misses none, and a slow one delays no writer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from dataclasses import field as dataclass_field
from functools import partial
from typing import Any, cast

from snakepit_bridge.client.results import Results, TaskResult
from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.exceptions import PredictionTimeoutError, StoreUnavailableError
from snakepit_bridge.process.home_loop import share_future
from snakepit_bridge.protocol.messages import chunks_key
from snakepit_bridge.redis.connection import RedisConnection

_CHUNKS_PER_READ = 100
_CHUNK = "chunk"


@dataclass(frozen=True, slots=True)
class StreamChunk:
    """Some text of one output field, in the order of writing.

    Attributes:
        field: the output field.
        text: what comes behind the pieces before it.
        predictor: the program's part that writes it, as DSPy names it.
        call: number of the LM call that it answers, from 1. If a later call writes the same field, discard the
            earlier chunks.
        attempt: 1 for the first try. When a later one begins, discard all chunks of earlier ones. Where two deliveries
            bear one number, since Redis lost the count of the first, the second shows the next.
        position: where it stands among the prediction's pieces; a reader goes on behind it. Two pieces of the same text
            are equal wherever they stand.
        replaced: whether it takes back, instead of adding text, what this call has written of the field: the answer
            couldn't be used, and another one follows.
    """

    field: str
    text: str
    predictor: str = ""
    call: int = 1
    attempt: int = 1
    position: str = dataclass_field(default="", compare=False)
    replaced: bool = False


@dataclass(frozen=True, slots=True)
class ChunkReader:
    """Opens the chunk streams of a fleet's predictions."""

    connection: RedisConnection
    results: Results
    namespace: str
    cipher: Cipher = PLAIN

    def open(
        self,
        task_id: str,
        wait_s: float | None = None,
        *,
        wait_for_end: Callable[[], Awaitable[TaskResult]] | None = None,
        after: str | None = None,
    ) -> ChunkStream:
        """Return a reader of one prediction's pieces.

        Args:
            task_id: the prediction.
            wait_s: seconds in which it has to end; None sets no bound.
            wait_for_end: returns how it ended; None waits on the prediction's own channel.
            after: the position of a piece: only those behind it are read.
        """
        return ChunkStream(self, task_id, wait_s, wait_for_end or partial(self.results.wait_for_end, task_id), after)


class ChunkStream:
    """Reads one prediction's pieces. It runs on the process's home loop; close it there.

    Args:
        pieces: the way to them.
        task_id: the prediction.
        wait_s: seconds in which it has to end; None sets no bound.
        wait_for_end: returns how it ended.
        after: the position of a piece: only those behind it are read.
    """

    def __init__(
        self,
        pieces: ChunkReader,
        task_id: str,
        wait_s: float | None,
        wait_for_end: Callable[[], Awaitable[TaskResult]],
        after: str | None = None,
    ) -> None:
        self._reader = pieces
        self._task_id = task_id
        self._wait_s = wait_s
        self._await_end = wait_for_end
        self._key = chunks_key(pieces.namespace, task_id)
        self._after = _parse_position(after) if after else None
        self._min_position = "-"
        self._numbers: dict[bytes, int] = {}
        self._attempts: dict[bytes, int] = {}
        self._wakeup = asyncio.Event()
        self._end: asyncio.Task[TaskResult] | None = None
        self._unsubscribe: Callable[[], Any] | None = None

    async def read(self) -> list[StreamChunk]:
        """Return the next pieces as soon as there are some, and none once the prediction has ended.

        An outage of Redis costs time: behind it the reading goes on where it was.

        Raises:
            PredictionTimeoutError: it hasn't ended in time.
            BridgeError: what ``wait_for_end`` raised.
            StoreUnavailableError: Redis was away to the end, or has never answered.
        """
        if self._end is None:
            await self._start()
        assert self._end is not None
        while True:
            self._wakeup.clear()
            # Looked at before the read: a worker writes its last piece before it commits the end.
            ended = self._end.done()
            chunks = await self._reader.results.retry_through_outages(self._read_if_wanted)
            if chunks or ended:
                break
            await self._wakeup.wait()
        if not chunks:
            await share_future(self._end)
        return chunks

    async def aclose(self) -> None:
        """End the reading."""
        if self._end is not None:
            self._end.cancel()
            await asyncio.gather(self._end, return_exceptions=True)
        if self._unsubscribe is not None:
            await self._unsubscribe()

    async def _start(self) -> None:
        results = self._reader.results
        async with asyncio.timeout(self._wait_s):
            self._unsubscribe = await results.retry_through_outages(
                lambda: results.subscribe(self._key, self._wakeup.set)
            )
        self._end = asyncio.create_task(self._wait_for_end(), name="dspex-pieces")
        self._end.add_done_callback(lambda _: self._wakeup.set())

    async def _wait_for_end(self) -> TaskResult:
        bound = asyncio.timeout(self._wait_s)
        try:
            async with bound:
                return await self._await_end()
        except TimeoutError:
            if not bound.expired():
                raise
            raise PredictionTimeoutError(self._task_id, self._wait_s or 0.0) from None

    async def _read_if_wanted(self) -> list[StreamChunk]:
        """Read; where the time in which the prediction has to end was over before Redis came back, say that instead."""
        try:
            return await self._read()
        except StoreUnavailableError:
            if self._end is not None and self._end.done():
                await share_future(self._end)
            raise

    async def _read(self) -> list[StreamChunk]:
        connection = self._reader.connection
        while True:
            reading = connection.client.xrange(self._key, min=self._min_position, count=_CHUNKS_PER_READ)
            entries = cast("list[tuple[bytes, dict[bytes, bytes]]]", await connection.wait_bounded(reading))
            if not entries:
                return []
            self._min_position = f"({entries[-1][0].decode()}"
            # Read from the first entry even behind a position, since an attempt's number depends on those before it.
            new = [(position, fields) for position, fields in entries if self._is_new(fields)]
            chunks = [self._decode(position, fields) for position, fields in new]
            if wanted := [chunk for chunk in chunks if self._is_behind(chunk)]:
                return wanted

    def _decode(self, position: bytes, fields: dict[bytes, bytes]) -> StreamChunk:
        """Return the chunk of an entry.

        Raises:
            DecryptionError: its text can't be decrypted.
        """
        place = _place_chunk(self._key, fields.get(b"writer", b"").decode(), int(fields.get(b"number", 0)))
        text = self._reader.cipher.decrypt(_CHUNK, place, fields[b"text"])
        chunk = _decode_chunk(position, {**fields, b"text": text})
        return replace(chunk, attempt=self._number_attempt(fields.get(b"writer", b""), chunk.attempt))

    def _number_attempt(self, writer: bytes, attempt: int) -> int:
        """Return the attempt to show for a writer: its own number, or the next if another writer has that."""
        if writer not in self._attempts:
            shown = self._attempts.values()
            self._attempts[writer] = attempt if attempt not in shown else max(shown) + 1
        return self._attempts[writer]

    def _is_behind(self, chunk: StreamChunk) -> bool:
        return self._after is None or _parse_position(chunk.position) > self._after

    def _is_new(self, fields: dict[bytes, bytes]) -> bool:
        """Return whether a piece is one that wasn't read before: a writer that lost an answer writes it once more."""
        writer, number = fields.get(b"writer"), int(fields.get(b"number", 0))
        if writer is None:
            return True
        if number <= self._numbers.get(writer, 0):
            return False
        self._numbers[writer] = number
        return True


def encrypt_chunk(cipher: Cipher, key: str, writer: str, number: int, text: str) -> bytes:
    """Return the text of a chunk as its entry has it.

    Args:
        cipher: the fleet's.
        key: the stream.
        writer: who writes it.
        number: the entry's number among those of this writer.
        text: the text.
    """
    return cipher.encrypt(_CHUNK, _place_chunk(key, writer, number), text.encode())


def _place_chunk(key: str, writer: str, number: int) -> tuple[str, ...]:
    return (key, writer, str(number))


def _parse_position(position: str) -> tuple[int, int]:
    milliseconds, _, number = position.partition("-")
    return int(milliseconds), int(number or 0)


def _decode_chunk(position: bytes, fields: dict[bytes, bytes]) -> StreamChunk:
    text = {name.decode(): value.decode() for name, value in fields.items()}
    numbers = int(text["call"]), int(text["attempt"])
    place, replaced = position.decode(), "replaced" in text
    return StreamChunk(text["field"], text["text"], text["predictor"], *numbers, place, replaced)
