"""Payloads: under the digest of their content, for as long as somebody needs them, and never something else."""

from __future__ import annotations

import math
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.delivery.payloads import Payloads, estimate_bytes, is_reference
from snakepit_bridge.exceptions import PayloadLostError
from snakepit_bridge.protocol.messages import Result
from snakepit_bridge.redis.connection import RedisConnection

LARGE = {"text": "x" * 2_000, "number": 1.5, "nothing": None, "list": [1, "ü", True]}


@pytest.fixture
def payloads(redis_url: str) -> Payloads:
    return Payloads(RedisConnection(redis_url), "dspex", 1_000)


def keys(url: str) -> list[bytes]:
    with Redis.from_url(url) as client:
        keys: Any = client.keys("dspex:payload:*")
    return keys


async def test_a_payload_survives_the_round_trip(payloads: Payloads) -> None:
    for value in (LARGE, {"wide": ["é", "\u2028", "𝄞"]}, {"odd": [math.inf, 10**30, 0.1 + 0.2, []]}):
        assert await payloads.get(await payloads.put(value, 60)) == value


async def test_equal_content_is_stored_once_with_the_longest_ttl(payloads: Payloads, redis_url: str) -> None:
    first = await payloads.put(LARGE, 100)
    assert await payloads.put(dict(LARGE), 500) == first
    assert await payloads.put(LARGE, 50) == first
    [key] = keys(redis_url)
    with Redis.from_url(redis_url) as client:
        assert 490 < client.ttl(key) <= 500
    await payloads.extend_ttl(first, 900)
    with Redis.from_url(redis_url) as client:
        assert 890 < client.ttl(key) <= 900


async def test_the_order_of_keys_is_kept(payloads: Payloads) -> None:
    """It is the order of the prompt."""
    read = await payloads.get(await payloads.put({"z": {"b": 1, "a": 2}, "a": 3}, 60))
    assert (list(read), list(read["z"])) == (["z", "a"], ["b", "a"])


async def test_any_json_payload_survives_the_round_trip(payloads: Payloads) -> None:
    for value in (
        {"__type__": "Invoice", "__value__": 1},
        {"a": {"$payload": "x", "bytes": 1}},
        {"payload": "payload:x:1"},
    ):
        assert await payloads.get(await payloads.put(value, 60)) == value
        assert not is_reference(value)


async def test_a_lost_payload_raises(payloads: Payloads, redis_url: str) -> None:
    reference = await payloads.put(LARGE, 60)
    with Redis.from_url(redis_url) as client:
        client.delete(*keys(redis_url))
    with pytest.raises(PayloadLostError, match=reference.split(":")[1][:12]) as lost:
        await payloads.get(reference)
    assert lost.value.digest == reference.split(":")[1]


async def test_a_corrupted_payload_is_rejected(payloads: Payloads, redis_url: str) -> None:
    reference = await payloads.put(LARGE, 60)
    with Redis.from_url(redis_url) as client:
        client.set(keys(redis_url)[0], b'{"text": "forged"}', ex=60)
    with pytest.raises(PayloadLostError, match="another digest"):
        await payloads.get(reference)


async def test_a_large_payload_survives_the_round_trip(payloads: Payloads) -> None:
    value = {"text": "x" * 3_000_000}
    assert await payloads.get(await payloads.put(value, 60)) == value


@pytest.mark.parametrize(
    ("value", "fits"),
    [
        ({}, True),
        ({"a": "x" * 900}, True),
        ({"a": "x" * 1_100}, False),
        ({"a": [0.5] * 20}, True),
        ({"a": [0.5] * 200}, False),
        ({"a": {"b": ["x" * 600, "y" * 600]}}, False),
    ],
)
def test_fitting_depends_on_the_estimated_size(payloads: Payloads, value: Any, fits: bool) -> None:
    assert payloads.fits(value) is fits


def test_estimating_stops_at_the_limit() -> None:
    parts = ["x" * 100] * 100_000
    assert 1_000 < estimate_bytes(parts, 1_000) < 1_200


async def test_a_small_result_is_stored_inline(payloads: Payloads, redis_url: str) -> None:
    result = Result({"answer": "42"}, {"token": "1.1"}, {"question": "?"})
    assert await payloads.encode_result(result, 60) == result.encode()
    assert await payloads.load_result(result) == result
    assert keys(redis_url) == []


async def test_a_large_result_is_stored_by_reference(payloads: Payloads) -> None:
    result = Result({"answer": "x" * 2_000}, {"token": "1.1"}, {"question": "?"}, [{"answer": "a"}, {"answer": "b"}])
    stored = await payloads.encode_result(result, 60)
    assert stored.keys() == {"v", "payload"}
    read = Result.decode(stored)
    assert (read.outputs, is_reference(read.payload)) == ({}, True)
    assert await payloads.load_result(read) == result


async def test_a_result_extends_the_ttl_of_its_inputs_payload(payloads: Payloads, redis_url: str) -> None:
    inputs = await payloads.put({"text": "x" * 2_000}, 30)
    await payloads.encode_result(Result({"answer": "42"}, {}, inputs), 700)
    with Redis.from_url(redis_url) as client:
        assert 690 < client.ttl(keys(redis_url)[0]) <= 700
