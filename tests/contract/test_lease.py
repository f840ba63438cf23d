"""Leases in Redis: one holder at a time, renewed while it holds, and another soon after the holder died."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from functools import partial

import pytest

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.lease import Lease, LeaseLostError, Leases
from tests.harness.waiting import eventually

KEY, RECORD = "dspex:{t}:turn", "dspex:{t}:record"


@pytest.fixture
async def connection(redis_url: str) -> AsyncGenerator[RedisConnection]:
    opened = RedisConnection(redis_url)
    yield opened
    await opened.aclose()


async def lost(connection: RedisConnection, lease_s: float) -> Lease:
    """The lease of a process that was killed while it held it: nobody renews it or gives it back."""
    lease = Lease(KEY, "killed", connection, round(lease_s * 1000))
    assert await lease.acquire()
    return lease


async def has_been_renewed(connection: RedisConnection, until_ms: int) -> bool:
    """Check whether a lease ends later than it did."""
    return await connection.client.pexpiretime(KEY) > until_ms


async def test_one_process_at_a_time_holds_the_lease(connection: RedisConnection) -> None:
    leases, inside, most = Leases(connection), 0, 0

    async def work() -> None:
        nonlocal inside, most
        async with leases.acquire(KEY):
            inside += 1
            most = max(most, inside)
            await asyncio.sleep(0.01)
            inside -= 1

    await asyncio.gather(*(work() for _ in range(10)))
    assert most == 1


async def test_a_lease_in_use_is_renewed(connection: RedisConnection) -> None:
    leases = Leases(connection, lease_s=1.5)
    async with leases.acquire(KEY) as lease:
        for _ in range(2):
            until_ms = await connection.client.pexpiretime(KEY)
            await eventually(partial(has_been_renewed, connection, until_ms), "a renewal")
        assert not await Lease(KEY, "another", connection, 300).acquire()
        await lease.write_record(RECORD, "done", 60)
    assert await connection.client.get(RECORD) in (b"done", "done")


async def test_the_lease_of_a_crashed_holder_expires(connection: RedisConnection) -> None:
    await lost(connection, 0.3)
    began = time.monotonic()
    async with Leases(connection).acquire(KEY):
        assert 0.2 < time.monotonic() - began < 5


async def test_a_paused_holder_can_write_nothing_and_has_lost_the_lease(
    connection: RedisConnection,
) -> None:
    paused = await lost(connection, 0.1)
    async with Leases(connection).acquire(KEY) as lease:
        await lease.write_record(RECORD, "answer", 60)
        with pytest.raises(LeaseLostError):
            await paused.write_record(RECORD, "older", 60)
        await paused.delete_record(RECORD)
    # It is free now, and still not the paused one's: whoever had it may have ended the work.
    with pytest.raises(LeaseLostError):
        await paused.write_record(RECORD, "older", 60)
    await paused.release()
    assert await connection.client.get(RECORD) in (b"answer", "answer")


async def test_a_caller_cancelled_while_waiting_leaves_the_lease_free(connection: RedisConnection) -> None:
    leases = Leases(connection)

    async def held() -> None:
        async with leases.acquire(KEY):
            await asyncio.sleep(60)

    for pause in [0.0, *(n / 2000 for n in range(20))]:
        waiting = asyncio.create_task(held())
        await asyncio.sleep(pause)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        async with asyncio.timeout(2), leases.acquire(KEY):
            pass
