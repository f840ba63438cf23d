"""Which errors of Redis are an outage, in one table; and what becomes of work in one."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from kombu.exceptions import OperationalError
from redis import exceptions as named

from snakepit_bridge.exceptions import InputError, StoreUnavailableError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.outages import is_outage, is_transient, retry_through_outages
from snakepit_bridge.redis.scripts import Script

ANSWERS = [
    "LOADING Redis is loading the dataset in memory",
    "MISCONF Redis is configured to save RDB snapshots, but it's currently unable to persist to disk.",
    "OOM command not allowed when used memory > 'maxmemory'.",
    "READONLY You can't write against a read only replica.",
    "MASTERDOWN Link with MASTER is down and replica-serve-stale-data is set to 'no'.",
    "CLUSTERDOWN The cluster is down",
    "TRYAGAIN Multiple keys request during rehashing of slot",
    "NOREPLICAS Not enough good replicas to write.",
    "BUSY Redis is busy running a script. You can only call SCRIPT KILL or SHUTDOWN NOSAVE.",
    "ERR max number of clients reached",
]


@pytest.mark.parametrize(
    "exc",
    [
        named.BusyLoadingError("loading"),
        named.ConnectionError("refused"),
        named.TimeoutError("slow"),
        named.ReadOnlyError("replica"),
        named.OutOfMemoryError("full"),
        named.TryAgainError("moving"),
        named.ClusterDownError("down"),
        named.MasterDownError("down"),
        named.ResponseError("MISCONF no disk"),
        named.ResponseError("NOREPLICAS alone"),
        named.ResponseError("Command # 1 (SADD key value) of pipeline caused error: NOREPLICAS alone"),
        named.ExecAbortError("Transaction discarded because of previous errors."),
        AttributeError("'NoneType' object has no attribute 'client'", name="client", obj=None),
        OperationalError("the broker is away"),
        ConnectionRefusedError(111, "refused"),
        StoreUnavailableError("redis://r", "away"),
    ],
    ids=lambda exc: type(exc).__name__,
)
def test_transient_outages_are_recognised(exc: Exception) -> None:
    assert is_outage(exc)
    assert is_transient(exc)


@pytest.mark.parametrize("exc", [named.NoPermissionError("no"), named.AuthenticationError("wrong")])
def test_permanent_outages_are_recognised(exc: Exception) -> None:
    assert is_outage(exc)
    assert not is_transient(exc)


@pytest.mark.parametrize(
    "exc",
    [
        named.ResponseError("WRONGTYPE a list"),
        named.NoScriptError("none"),
        named.ResponseError("Command # 1 (SADD key value) of pipeline caused error: WRONGTYPE a list"),
        AttributeError("'Fleet' object has no attribute 'client'", name="client", obj=object()),
        ValueError("BUSY"),
        InputError("p", "f", "x"),
    ],
)
def test_command_errors_are_not_outages(exc: Exception) -> None:
    assert not is_outage(exc)


@asynccontextmanager
async def answering(answer: str) -> AsyncGenerator[str]:
    """Run a server that answers every command alike, until all its clients have left; its URL."""
    served: list[asyncio.Task[Any] | None] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        served.append(asyncio.current_task())
        while data := await reader.read(65_536):
            commands = data.count(b"*")
            writer.write(f"-{answer}\r\n".encode() * max(1, commands))
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0"
    await asyncio.gather(*filter(None, served))


@pytest.mark.parametrize("answer", ANSWERS, ids=lambda answer: answer.partition(" ")[0])
@pytest.mark.parametrize("way", ["bounded", "soon", "script", "line"])
async def test_every_outage_reply_becomes_a_store_unavailable_error(answer: str, way: str) -> None:
    async with answering(answer) as url:
        connection = RedisConnection(url, timeout_s=2)
        ways = {
            "bounded": lambda: connection.send_each([("GET", "key")]),
            "soon": lambda: connection.execute("GET", "key"),
            "script": lambda: connection.execute_script(Script("return 1"), ["key"], []),
            "line": connection.open_connection,
        }
        with pytest.raises(StoreUnavailableError):
            await ways[way]()
        await connection.aclose()


async def test_work_is_retried_until_the_outage_is_over() -> None:
    tries = iter([StoreUnavailableError("redis://r", "away")] * 3)

    async def work() -> str:
        if exc := next(tries, None):
            raise exc
        return "done"

    assert await retry_through_outages(work) == "done"


@pytest.mark.parametrize("bound", ["deadline", "patience_s"])
async def test_an_outage_beyond_the_time_limit_raises(bound: str) -> None:
    async def work() -> None:
        raise StoreUnavailableError("redis://r", "away")

    bounds = {"deadline": time.time() + 0.3} if bound == "deadline" else {"patience_s": 0.3}
    started = time.monotonic()
    with pytest.raises(StoreUnavailableError):
        await retry_through_outages(work, **bounds)
    assert 0.2 < time.monotonic() - started < 3


async def test_missing_rights_raise_at_once() -> None:
    async def work() -> None:
        raise StoreUnavailableError("redis://r", "no") from named.NoPermissionError("no")

    with pytest.raises(StoreUnavailableError):
        await asyncio.wait_for(retry_through_outages(work), 1)
