"""Commands that travel together: one round trip for a tick, and each caller gets its own answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from redis.exceptions import ResponseError

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.pipeliner import Command, Pipeliner
from snakepit_bridge.redis.scripts import Script

INCREASE = Script("return redis.call('INCRBY', KEYS[1], ARGV[1])")


class Wire:
    """Notes what is sent together, and answers each command with itself once it may."""

    def __init__(self) -> None:
        self.sent: list[list[Command]] = []
        self.open = asyncio.Event()
        self.open.set()
        self.busy = asyncio.Event()

    async def __call__(self, commands: Sequence[Command]) -> list[Any]:
        self.sent.append(list(commands))
        self.busy.set()
        await self.open.wait()
        return [command[-1] for command in commands]


async def test_commands_of_one_tick_share_a_round_trip() -> None:
    wire = Wire()
    tick = Pipeliner(wire)
    assert await asyncio.gather(*(tick.execute(("GET", number)) for number in range(5))) == list(range(5))
    assert [len(sent) for sent in wire.sent] == [5]


async def test_commands_issued_during_a_round_trip_share_the_next() -> None:
    wire = Wire()
    tick = Pipeliner(wire)
    wire.open.clear()
    first = tick.execute(("GET", "first"))
    await wire.busy.wait()
    late = [tick.execute(("GET", number)) for number in range(3)]
    await asyncio.sleep(0)
    wire.open.set()
    assert await asyncio.gather(first, *late) == ["first", 0, 1, 2]
    assert [len(sent) for sent in wire.sent] == [1, 3]


async def test_equal_reads_are_deduplicated() -> None:
    wire = Wire()
    tick = Pipeliner(wire)
    answers = await asyncio.gather(
        *(tick.execute_read(("GET", "a")) for _ in range(3)), tick.execute_read(("GET", "b"))
    )
    assert answers == ["a", "a", "a", "b"]
    assert wire.sent == [[("GET", "a"), ("GET", "b")]]
    await tick.execute_read(("GET", "a"))
    assert len(wire.sent) == 2


async def test_a_cancelled_caller_does_not_affect_the_others() -> None:
    wire = Wire()
    tick = Pipeliner(wire)
    wire.open.clear()
    impatient, patient = (tick.execute_read(("GET", "a")) for _ in range(2))
    await asyncio.sleep(0)
    impatient.cancel()
    wire.open.set()
    assert await patient == "a"
    assert impatient.cancelled()


async def test_an_unreachable_server_raises_in_every_caller() -> None:
    async def refuse(_: Sequence[Command]) -> list[Any]:
        raise StoreUnavailableError("redis://h", "gone")

    tick = Pipeliner(refuse)
    errors = await asyncio.gather(*(tick.execute(("GET", "a")) for _ in range(2)), return_exceptions=True)
    assert [str(error) for error in errors] == [str(StoreUnavailableError("redis://h", "gone"))] * 2
    assert errors[0] is not errors[1]


# ---------------------------------------------------------------- over a server


async def test_each_caller_gets_its_own_reply(redis_url: str) -> None:
    connection = RedisConnection(redis_url)
    assert await connection.execute("SET", "a", "1", "EX", 60)
    assert await asyncio.gather(*(connection.execute_read("GET", key) for key in "ab")) == [b"1", None]
    await connection.aclose()


async def test_an_error_reply_is_raised_in_its_caller_only(redis_url: str) -> None:
    connection = RedisConnection(redis_url)
    answers = await asyncio.gather(
        connection.execute("SET", "a", "text", "EX", 60), connection.execute("INCR", "a"), return_exceptions=True
    )
    assert answers[0]
    assert isinstance(answers[1], ResponseError)
    await connection.aclose()


async def test_a_script_is_loaded_if_the_server_does_not_know_it(redis_url: str) -> None:
    connection = RedisConnection(redis_url)
    await connection.execute("SCRIPT", "FLUSH")
    await connection.execute("SET", "n", 0, "EX", 60)
    assert sorted(await asyncio.gather(*(connection.execute_script(INCREASE, ["n"], [1]) for _ in range(3)))) == [
        1,
        2,
        3,
    ]
    assert await connection.execute_script(INCREASE, ["n"], [10]) == 13
    await connection.aclose()


async def test_no_caller_waits_longer_than_the_timeout() -> None:
    connection = RedisConnection("redis://127.0.0.1:1/0", timeout_s=1)
    with pytest.raises(StoreUnavailableError):
        await connection.execute("PING")


async def test_large_batches_are_split() -> None:
    wire = Wire()
    tick = Pipeliner(wire)
    answers = await asyncio.gather(*(tick.execute(("GET", number)) for number in range(1_200)))
    assert answers == list(range(1_200))
    assert [len(sent) for sent in wire.sent] == [500, 500, 200]
