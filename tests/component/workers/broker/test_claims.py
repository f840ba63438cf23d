"""Giving a held message away: once, whole, and only while the claim is held."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from snakepit_bridge.delivery.keys import SEPARATOR, DeliveryKeys
from snakepit_bridge.redis.connection import RedisConnection
from workers.broker.claims import BrokerClaims

TAG = "0123abcd.7"
# Neither text nor JSON, with line feeds: nobody may look into a message.
MESSAGE = b'\xff\n{"a": 0.30000000000000004, "b": []}\n\x00'


@pytest.fixture(params=["", "team:"])
async def claims(request: pytest.FixtureRequest, redis_url: str) -> AsyncGenerator[BrokerClaims]:
    connection = RedisConnection(redis_url)
    yield BrokerClaims(connection, DeliveryKeys.of("dspex", request.param))
    await connection.aclose()


async def hold(claims: BrokerClaims, queue: str = "predictions", step: int = 0, tag: str = TAG) -> None:
    record = claims.layout.waiting(queue, step).encode() + b"\n" + MESSAGE
    await claims.connection.client.hset(claims.layout.held(tag.split(".")[0]), tag, record)


async def waiting(claims: BrokerClaims, queue: str, step: int = 0) -> list[bytes]:
    found: Any = claims.connection.client.lrange(claims.layout.waiting(queue, step), 0, -1)
    return await found


async def held(claims: BrokerClaims) -> int:
    found: Any = claims.connection.client.hlen(claims.layout.held(TAG.split(".")[0]))
    return await found


@pytest.mark.keeps_keys("team:.*", "code.*")
@pytest.mark.parametrize(("own", "wanted", "step"), [(0, None, 0), (6, None, 6), (6, 0, 0), (0, 4, 3), (3, 9, 9)])
async def test_a_moved_message_waits_at_the_end_of_the_other_queue(
    own: int, wanted: int | None, step: int, claims: BrokerClaims
) -> None:
    await claims.connection.client.lpush(claims.layout.waiting("code", step), b"earlier")
    await hold(claims, step=own)
    assert await claims.move(TAG, "code", wanted)
    assert await waiting(claims, "code", step) == [MESSAGE, b"earlier"], "the right end is served first"
    assert await held(claims) == 0


@pytest.mark.keeps_keys("team:.*", "code.*")
async def test_what_is_sent_twice_is_done_once_and_answered_alike(claims: BrokerClaims) -> None:
    await hold(claims)
    assert [await claims.move(TAG, "code"), await claims.move(TAG, "code")] == [True, True]
    assert await waiting(claims, "code") == [MESSAGE]


@pytest.mark.parametrize("tag", [TAG, "8d1f5cd1-53b2-4a33-8a7e-4bd0b1f8d3a4", "", ".1"])
async def test_a_claim_that_is_not_held_moves_nothing(tag: str, claims: BrokerClaims) -> None:
    assert not await claims.move(tag, "code")
    assert not await claims.delay(tag, time.time() + 60)
    assert await waiting(claims, "code") == []


async def test_a_delayed_message_is_put_aside_with_the_list_that_it_returns_to(claims: BrokerClaims) -> None:
    await hold(claims, step=3)
    assert await claims.delay(TAG, 1_700_000_000.25)
    found: Any = await claims.connection.client.zrange(claims.layout.delayed, 0, -1, withscores=True)
    ((record, due),) = found
    assert bytes(record) == f"{claims.layout.prefix}predictions{SEPARATOR}3\n".encode() + MESSAGE
    assert due == 1_700_000_000_250
    assert await held(claims) == 0


async def test_other_claims_of_the_worker_stay(claims: BrokerClaims) -> None:
    await hold(claims)
    await hold(claims, tag="0123abcd.8")
    assert await claims.delay(TAG, 1)
    assert await held(claims) == 1


@pytest.mark.keeps_keys("team:.*", "mine")
async def test_a_script_of_ones_own_takes_a_message_out_by_the_library(claims: BrokerClaims) -> None:
    text = claims.library + "local from, message = claim_take(ARGV[1], ARGV[2])\nreturn {from or '', message or ''}"
    await hold(claims)
    script = claims.connection.client.register_script(text)
    assert await script([], [claims.base, TAG]) == [claims.layout.waiting("predictions").encode(), MESSAGE]
    assert await script([], [claims.base, TAG]) == [b"", b""]
