"""What waits where no file is left. ``test_open_files`` runs these tests in a process of their own."""

from __future__ import annotations

import asyncio
import os
import resource
from collections.abc import Generator
from contextlib import contextmanager, suppress

import pytest

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.process.open_files import OPEN_FILES, OpenFiles, count_open_files, open_file_limit
from snakepit_bridge.redis.connection import RedisConnection
from tests.harness.waiting import PATIENCE_S, eventually


@pytest.fixture
def low_limit() -> Generator[int]:
    """A soft limit a little above what this process has open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = count_open_files() + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def all_taken() -> Generator[list[int]]:
    """Take all files that the process may have open; what is popped and closed is free again."""
    held: list[int] = []
    with suppress(OSError):
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    try:
        yield held
    finally:
        for each in held:
            os.close(each)


async def _lacked() -> bool:
    ago = OPEN_FILES.usage().lacked_s_ago
    return ago is not None and ago < 1


async def test_no_more_connections_are_held_than_the_limit_leaves(low_limit: int) -> None:
    files, most, held = OpenFiles(), 0, 0

    async def hold() -> None:
        nonlocal most, held
        async with files.connection():
            held += 1
            most = max(most, held)
            await asyncio.sleep(0)
            held -= 1

    await asyncio.gather(*(hold() for _ in range(200)))
    assert most == files.usage().room
    assert 8 <= most < 20
    assert files.usage().limit == low_limit == open_file_limit()


async def test_work_that_lacks_a_file_is_done_when_there_is_one(low_limit: int) -> None:
    files = OpenFiles()

    async def work() -> str:
        os.close(os.open(os.devnull, os.O_RDONLY))
        return "done"

    async def lacked() -> bool:
        return files.usage().lacked_s_ago is not None

    with all_taken() as descriptors:
        working = asyncio.create_task(files.wait_for_files(work))
        await eventually(lacked, "the work to lack a file")
        assert not working.done()
        os.close(descriptors.pop())
        assert await asyncio.wait_for(working, PATIENCE_S) == "done"


async def test_idle_connections_make_room(low_limit: int) -> None:
    files = OpenFiles()

    class Idle:
        def __init__(self, held: list[int]) -> None:
            self.held = held

        def close_idle(self) -> None:
            while len(self.held) > 5:
                os.close(self.held.pop())

    async def work() -> str:
        os.close(os.open(os.devnull, os.O_RDONLY))
        return "done"

    with all_taken() as descriptors:
        idle = Idle(descriptors)
        files.register_idle(idle)
        assert await asyncio.wait_for(files.wait_for_files(work), PATIENCE_S) == "done"
        assert len(descriptors) == 5


async def test_redis_is_asked_once_there_is_a_file_to_connect_by(redis_url: str, low_limit: int) -> None:
    connection = RedisConnection(redis_url, timeout_s=10.0)
    assert connection.client  # its scripts are read from files, once
    with all_taken() as descriptors:
        asking = asyncio.gather(connection.execute("PING"), connection.execute_read("GET", "a"), return_exceptions=True)
        await eventually(_lacked, "the connection to lack a file")
        assert not asking.done()
        while len(descriptors) > 5:
            os.close(descriptors.pop())
        assert await asyncio.wait_for(asking, PATIENCE_S) == [True, None]
    await connection.aclose()


async def test_redis_is_away_where_no_file_comes_free(redis_url: str, low_limit: int) -> None:
    connection = RedisConnection(redis_url, timeout_s=0.5)
    assert connection.client
    with all_taken(), pytest.raises(StoreUnavailableError, match="Too many open files"):
        await connection.execute("PING")
    await connection.aclose()
