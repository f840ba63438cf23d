"""Payloads: under the digest of their content, for as long as somebody needs them, and never something else."""

from __future__ import annotations

import math
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.delivery.payloads import Payloads, is_reference, weight
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


async def test_what_is_put_comes_back_as_it_was(payloads: Payloads) -> None:
    for value in (LARGE, {"wide": ["é", "\u2028", "𝄞"]}, {"odd": [math.inf, 10**30, 0.1 + 0.2, []]}):
        assert await payloads.get(await payloads.put(value, 60)) == value


async def test_equal_content_is_stored_once_for_the_longest_that_was_asked(payloads: Payloads, redis_url: str) -> None:
    first = await payloads.put(LARGE, 100)
    assert await payloads.put(dict(LARGE), 500) == first
    assert await payloads.put(LARGE, 50) == first
    [key] = keys(redis_url)
    with Redis.from_url(redis_url) as client:
        assert 490 < client.ttl(key) <= 500
    await payloads.keep(first, 900)
    with Redis.from_url(redis_url) as client:
        assert 890 < client.ttl(key) <= 900


async def test_the_order_of_keys_stays(payloads: Payloads) -> None:
    """KINDS 20: it is the order of the prompt."""
    read = await payloads.get(await payloads.put({"z": {"b": 1, "a": 2}, "a": 3}, 60))
    assert (list(read), list(read["z"])) == (["z", "a"], ["b", "a"])


async def test_any_json_comes_back_as_it_was(payloads: Payloads) -> None:
    """KINDS 4."""
    for value in (
        {"__type__": "Invoice", "__value__": 1},
        {"a": {"$payload": "x", "bytes": 1}},
        {"payload": "payload:x:1"},
    ):
        assert await payloads.get(await payloads.put(value, 60)) == value
        assert not is_reference(value)


async def test_one_that_has_gone_is_named(payloads: Payloads, redis_url: str) -> None:
    reference = await payloads.put(LARGE, 60)
    with Redis.from_url(redis_url) as client:
        client.delete(*keys(redis_url))
    with pytest.raises(PayloadLostError, match=reference.split(":")[1][:12]) as lost:
        await payloads.get(reference)
    assert lost.value.digest == reference.split(":")[1]


async def test_one_that_was_changed_is_refused(payloads: Payloads, redis_url: str) -> None:
    reference = await payloads.put(LARGE, 60)
    with Redis.from_url(redis_url) as client:
        client.set(keys(redis_url)[0], b'{"text": "forged"}', ex=60)
    with pytest.raises(PayloadLostError, match="another digest"):
        await payloads.get(reference)


async def test_a_large_one_is_digested_off_the_loop_and_is_the_same(payloads: Payloads) -> None:
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
def test_a_value_fits_by_about_its_size(payloads: Payloads, value: Any, fits: bool) -> None:
    assert payloads.fits(value) is fits


def test_counting_stops_where_it_is_enough() -> None:
    parts = ["x" * 100] * 100_000
    assert 1_000 < weight(parts, 1_000) < 1_200


async def test_a_result_that_fits_is_stored_as_it_is(payloads: Payloads, redis_url: str) -> None:
    result = Result({"answer": "42"}, {"token": "1.1"}, {"question": "?"})
    assert await payloads.message(result, 60) == result.encode()
    assert await payloads.whole(result) == result
    assert keys(redis_url) == []


async def test_a_result_that_is_too_large_is_a_reference_until_it_is_asked_for(payloads: Payloads) -> None:
    result = Result({"answer": "x" * 2_000}, {"token": "1.1"}, {"question": "?"}, [{"answer": "a"}, {"answer": "b"}])
    stored = await payloads.message(result, 60)
    assert stored.keys() == {"v", "payload"}
    read = Result.decode(stored)
    assert (read.outputs, is_reference(read.payload)) == ({}, True)
    assert await payloads.whole(read) == result


async def test_a_result_keeps_the_inputs_that_it_refers_to(payloads: Payloads, redis_url: str) -> None:
    asked = await payloads.put({"text": "x" * 2_000}, 30)
    await payloads.message(Result({"answer": "42"}, {}, asked), 700)
    with Redis.from_url(redis_url) as client:
        assert 690 < client.ttl(keys(redis_url)[0]) <= 700
