"""Deliveries: deaths are counted, and nothing else: neither a run that goes on nor one that has ended."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable

import pytest
from redis.asyncio import Redis

from snakepit_bridge.redis.connection import RedisConnection
from tasks import quarantine as suspects_module
from tasks.quarantine import Quarantine
from tasks.rabbitmq_deliveries import CrashCounter
from tests.harness.waiting import PATIENCE_S

LEASE_S = 0.4
MAX = 3

Process = Callable[[], CrashCounter]


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suspects_module, "_SETTLE_S", 0.0)


@pytest.fixture
async def process(redis_url: str) -> AsyncGenerator[Process]:
    connection = RedisConnection(redis_url)

    def make() -> CrashCounter:
        return CrashCounter(
            connection, namespace="n", lease_s=LEASE_S, max_deliveries=MAX, keep_s=60, suspects=Quarantine()
        )

    yield make
    await connection.aclose()


def die(process: CrashCounter) -> None:
    """Has a process give no sign of life any more."""
    assert process._heartbeat is not None
    process._heartbeat.cancel()


async def test_a_message_is_given_up_after_as_many_deaths_as_it_may_cost(process: Process) -> None:
    for death in range(MAX):
        doomed = process()
        assert await doomed.begin("t", first=not death) == 0
        die(doomed)
    assert await process().begin("t", first=False) == MAX
    # Sent again from the dead list, it begins anew.
    assert await process().begin("t", first=False) == 0


async def test_what_is_handed_back_again_and_again_is_no_death(process: Process) -> None:
    for time in range(2 * MAX):
        worker = process()
        assert await worker.begin("t", first=not time) == 0
        await worker.end("t")


@pytest.mark.parametrize("elsewhere", [False, True])
async def test_a_message_that_comes_again_waits_until_its_run_has_ended(process: Process, elsewhere: bool) -> None:
    first = process()
    second = process() if elsewhere else first
    await first.begin("t", first=True)
    again = asyncio.create_task(second.begin("t", first=False))
    await asyncio.sleep(3 * LEASE_S)
    assert not again.done()
    await first.end("t")
    assert await asyncio.wait_for(again, PATIENCE_S) == 0
    await second.end("t")


async def test_what_died_with_its_worker_often_waits_for_its_turn_without_a_note(process: Process) -> None:
    for name in ("a", "b"):
        for death in range(MAX - 1):
            doomed = process()
            await doomed.begin(name, first=not death)
            die(doomed)
    worker = process()
    # Two deaths each: a third one of these would be its last. They run beside few others, and these two at a time.
    await asyncio.gather(*(worker.begin(name, first=False) for name in ("a", "b")))
    await asyncio.gather(*(worker.end(name) for name in ("a", "b")))


async def test_the_notes_expire(process: Process, redis_url: str) -> None:
    worker = process()
    await worker.begin("t", first=True)
    async with Redis.from_url(redis_url) as client:
        assert {key: await client.ttl(key) > -1 for key in await client.keys("n:*")} == {
            b"n:delivery:runs:t": True,
            f"n:delivery:alive:{worker._process}".encode(): True,
        }
