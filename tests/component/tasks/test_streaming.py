"""What a worker writes of an answer that is followed: in order, together, and never at the prediction's expense."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

from redis import Redis

from snakepit_bridge.client.stream import ChunkReader, ChunkStream, StreamChunk
from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.redis.connection import RedisConnection
from tasks.streaming import ChunkWriter


def written(url: str) -> list[tuple[str, str, str, str]]:
    with Redis.from_url(url, decode_responses=True) as client:
        entries: Any = client.xrange("pieces")
        return [(piece["field"], piece["text"], piece["call"], piece["attempt"]) for _, piece in entries]


async def test_pieces_are_written_in_order_and_grow_together_while_they_wait(redis_url: str) -> None:
    writer = ChunkWriter(RedisConnection(redis_url), "pieces", 3)
    for text in ("a", "b", "c"):
        writer.put(StreamChunk("reasoning", text, "self"))
    writer.put(StreamChunk("answer", "d", "self"))
    writer.put(StreamChunk("answer", "e", "self", call=2))
    await writer.drain()
    writer.put(StreamChunk("answer", "f", "self", call=2))
    await writer.drain()
    assert written(redis_url) == [
        ("reasoning", "abc", "1", "3"), ("answer", "d", "1", "3"), ("answer", "e", "2", "3"), ("answer", "f", "2", "3"),
    ]  # fmt: skip
    with Redis.from_url(redis_url) as client:
        assert 0 < client.ttl("pieces") <= 600


async def test_a_writer_of_nothing_writes_nothing(redis_url: str) -> None:
    await ChunkWriter(RedisConnection(redis_url), "pieces", 1).drain()
    assert written(redis_url) == []


async def test_two_writers_of_one_attempt_are_two_attempts_to_a_reader(redis_url: str) -> None:
    """A Redis that lost the tail of its log counts two deliveries as the same attempt."""
    connection = RedisConnection(redis_url)
    for texts in (("a", "b"), ("a", "b", "c")):
        writer = ChunkWriter(connection, "dspex:pieces:t", 1)
        for text in texts:
            writer.put(StreamChunk("answer", text))
            await writer.drain()
    reader = ChunkReader(connection, cast(Any, None), "dspex")
    chunks = await ChunkStream(reader, "t", None, cast(Any, None))._read()
    assert [(chunk.attempt, chunk.text) for chunk in chunks] == [(1, "a"), (1, "b"), (2, "a"), (2, "b"), (2, "c")]
    resumed = await ChunkStream(reader, "t", None, cast(Any, None), after=chunks[2].position)._read()
    assert resumed == chunks[3:], "a reader that goes on behind a chunk sees the same numbers"
    await connection.aclose()


async def test_an_earlier_attempt_that_writes_late_keeps_its_number(redis_url: str) -> None:
    connection = RedisConnection(redis_url)
    for attempt in (2, 1, 3):
        writer = ChunkWriter(connection, "dspex:pieces:t", attempt)
        writer.put(StreamChunk("answer", str(attempt)))
        await writer.drain()
    chunks = await ChunkStream(ChunkReader(connection, cast(Any, None), "dspex"), "t", None, cast(Any, None))._read()
    assert [chunk.attempt for chunk in chunks] == [2, 1, 3]
    await connection.aclose()


async def test_pieces_are_written_behind_an_outage_and_each_is_read_once(redis_url: str) -> None:
    """An answer that was lost makes the writer write again, and the reader leaves out what it has read."""
    connection = RedisConnection(redis_url)
    writer, sent = ChunkWriter(connection, "dspex:pieces:t", 1), connection.send_each
    failures = iter([False, True, False])

    async def send(commands: Sequence[Sequence[Any]]) -> list[Any]:
        if next(failures, False):
            raise StoreUnavailableError("redis://r", "away")
        answers = await sent(commands)
        if next(failures, False):
            raise StoreUnavailableError("redis://r", "the answer was lost")
        return answers

    monkeypatched: Any = connection
    monkeypatched.send_each = send
    for text in ("a", "b", "c"):
        writer.put(StreamChunk("answer", text))
        await writer.drain()
    following = ChunkStream(ChunkReader(connection, cast(Any, None), "dspex"), "t", None, cast(Any, None))
    assert [piece.text for piece in await following._read()] == ["a", "b", "c"]
    assert int(cast(Any, await connection.client.xlen("dspex:pieces:t"))) == 4
    await connection.aclose()
