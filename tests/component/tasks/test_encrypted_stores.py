"""With encryption keys: the journal, cached answers, batches' requests, chunks and records show nothing in Redis."""

from __future__ import annotations

from typing import Any, cast

import pytest
from redis import Redis

from snakepit_bridge.client.stream import ChunkReader, ChunkStream, StreamChunk
from snakepit_bridge.encryption.cipher import PLAIN, Cipher, EncryptionOptions
from snakepit_bridge.encryption.keys import KeyRing, generate_key
from snakepit_bridge.exceptions import DecryptionError
from snakepit_bridge.lm_batches.records import WaitingRequest
from snakepit_bridge.redis.connection import RedisConnection
from tasks.journal.store import JournalStore
from tasks.response_cache.store import AnswerStore, Hit
from tasks.streaming import ChunkWriter
from tests.harness.redis_dump import dump

KEYS = " ".join(generate_key(name) for name in ("a", "digests"))
CANARY = b"canary-2342"


def cipher(keys: str = KEYS, *, accepts_plain: bool = False) -> Cipher:
    return EncryptionOptions(KeyRing.parse(keys), accepts_plain=accepts_plain).cipher("dspex")


def journal(connection: RedisConnection, by: Cipher) -> JournalStore:
    return JournalStore(connection, namespace="dspex", keep_s=60, cipher=by)


async def test_a_journal_has_neither_answers_nor_digests_of_requests(redis_url: str) -> None:
    connection = RedisConnection(redis_url)
    entries = {"lm:cafe:0": b'{"answer": "%s"}' % CANARY, "batch:r1": b"line\nbreak"}
    await journal(connection, cipher()).add("t", entries)
    assert await journal(connection, cipher()).load("t") == entries
    assert "lm:cafe" not in dump(redis_url)
    assert CANARY.decode() not in dump(redis_url)
    with pytest.raises(DecryptionError, match="no keys"):
        await journal(connection, PLAIN).load("t")
    with Redis.from_url(redis_url) as client:
        client.rename("dspex:{t:t}:journal", "dspex:{t:other}:journal")
    with pytest.raises(DecryptionError, match="moved here"):
        await journal(connection, cipher()).load("other")


async def test_a_journal_from_before_there_were_keys_is_read_while_data_is_migrated(redis_url: str) -> None:
    connection = RedisConnection(redis_url)
    await journal(connection, PLAIN).add("t", {"lm:cafe:0": b"{}"})
    assert await journal(connection, cipher(accepts_plain=True)).load("t") == {"lm:cafe:0": b"{}"}
    with pytest.raises(DecryptionError, match="ACCEPTS_PLAIN"):
        await journal(connection, cipher()).load("t")


async def test_a_cached_answer_is_bound_to_its_request(redis_url: str) -> None:
    connection = RedisConnection(redis_url)
    answers = AnswerStore(connection, namespace="dspex", cipher=cipher())
    await answers.claim("d1", "me")
    await answers.save("d1", "me", CANARY, 60)
    assert await answers.claim("d1", "me") == Hit(CANARY)
    assert CANARY.decode() not in dump(redis_url)
    with Redis.from_url(redis_url) as client:
        client.copy("dspex:{lm:d1}:answer", "dspex:{lm:d2}:answer")
    with pytest.raises(DecryptionError, match="answer d2"):
        await answers.claim("d2", "me")


async def test_chunks_are_read_in_the_order_of_their_writer_alone(redis_url: str) -> None:
    connection, key = RedisConnection(redis_url), "dspex:pieces:t"
    writer = ChunkWriter(connection, key, 1, cipher())
    for text in (f"{CANARY.decode()} one", "two"):
        writer.put(StreamChunk("answer", text, call=len(text)))
    await writer.drain()
    reader = ChunkStream(ChunkReader(connection, cast(Any, None), "dspex", cipher()), "t", None, cast(Any, None))
    assert [chunk.text for chunk in await reader._read()] == [f"{CANARY.decode()} one", "two"]
    assert CANARY.decode() not in dump(redis_url)
    with Redis.from_url(redis_url) as client:
        [(_, first), _] = cast(Any, client.xrange(key))
        client.xadd("dspex:pieces:other", {**first, b"number": b"7"})
    other = ChunkStream(ChunkReader(connection, cast(Any, None), "dspex", cipher()), "other", None, cast(Any, None))
    with pytest.raises(DecryptionError, match="chunk dspex:pieces:other"):
        await other._read()
    await connection.execute("DEL", "dspex:pieces:other")


def test_a_request_of_a_batch_is_encrypted() -> None:
    request = WaitingRequest("r1", "t", "night", "/chat", {"messages": CANARY.decode()})
    stored = request.encode(cipher())
    assert CANARY not in stored
    assert WaitingRequest.decode(stored, cipher()) == request
