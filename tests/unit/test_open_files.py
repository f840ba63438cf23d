"""KINDS 0c: how many files a process may have open, and what waits where none is left."""

from __future__ import annotations

import asyncio
import errno
import gc
import json
import os
import resource
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from weakref import WeakSet

import pytest

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.open_files import OPEN_FILES, OpenFiles, count_open_files, lacks_files, open_file_limit
from snakepit_bridge.stores.connection import RedisConnection
from tests.harness.waiting import eventually


def no_file() -> OSError:
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def wrapped(exc: BaseException, *, cause: bool) -> BaseException:
    outer = ConnectionError("Error 24 connecting")
    if cause:
        outer.__cause__ = exc
    else:
        outer.__context__ = exc
    return outer


@pytest.fixture
def low_limit(monkeypatch: pytest.MonkeyPatch) -> Generator[int]:
    """A soft limit a little above what this process has open, with no idle connections of earlier tests to close."""
    monkeypatch.setattr(OPEN_FILES, "_idle", WeakSet())
    gc.collect()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    limit = count_open_files() + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@contextmanager
def all_taken() -> Generator[list[int]]:
    """Takes all files that the process may have open; what is popped and closed is free again."""
    held: list[int] = []
    with suppress(OSError):
        while True:
            held.append(os.open(os.devnull, os.O_RDONLY))
    try:
        yield held
    finally:
        for each in held:
            os.close(each)


@pytest.mark.parametrize("limits", [(64, 512), (512, 512)])
def test_the_soft_limit_is_raised_to_the_hard_one(limits: tuple[int, int]) -> None:
    code = (
        "import json, resource; from snakepit_bridge.open_files import raise_open_file_limit; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, {limits}); "
        "print(json.dumps([raise_open_file_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE)]))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert json.loads(done.stdout) == [512, 512, 512]


def test_open_files_are_counted() -> None:
    before = count_open_files()
    held = [os.open(os.devnull, os.O_RDONLY) for _ in range(5)]
    assert count_open_files() == before + 5
    for each in held:
        os.close(each)


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE])
@pytest.mark.parametrize("cause", [True, False])
def test_a_lack_of_files_is_found_among_the_causes(number: int, cause: bool) -> None:
    inner = OSError(number, os.strerror(number))
    assert lacks_files(inner)
    assert lacks_files(wrapped(wrapped(inner, cause=cause), cause=cause))


def test_other_failures_are_no_lack_of_files() -> None:
    assert not lacks_files(ConnectionRefusedError(errno.ECONNREFUSED, "refused"))
    assert not lacks_files(LookupError("Too many open files, says the server"))
    assert not lacks_files(None)
    circle = LookupError("one")
    circle.__context__ = circle.__cause__ = wrapped(circle, cause=True)
    assert not lacks_files(circle)


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
    assert most == files.use().room
    assert 8 <= most < 20
    assert files.use().limit == low_limit == open_file_limit()


async def test_work_that_lacks_a_file_is_done_when_there_is_one(low_limit: int) -> None:
    files = OpenFiles()

    async def work() -> str:
        os.close(os.open(os.devnull, os.O_RDONLY))
        return "done"

    async def lacked() -> bool:
        return files.use().lacked_s_ago is not None

    with all_taken() as taken:
        working = asyncio.create_task(files.wait_for_files(work))
        await eventually(lacked, "the work to lack a file")
        assert not working.done()
        os.close(taken.pop())
        assert await asyncio.wait_for(working, 5) == "done"


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

    with all_taken() as taken:
        idle = Idle(taken)
        files.register_idle(idle)
        assert await asyncio.wait_for(files.wait_for_files(work), 5) == "done"
        assert len(taken) == 5


async def test_it_is_given_up_after_a_while_and_other_failures_at_once() -> None:
    files, tries = OpenFiles(), 0

    async def lack() -> None:
        nonlocal tries
        tries += 1
        raise no_file()

    async def fail() -> None:
        raise LookupError("as told")

    with pytest.raises(OSError, match="Too many"):
        await files.wait_for_files(lack, patience_s=1.0)
    assert tries > 1
    with pytest.raises(LookupError):
        await files.wait_for_files(fail)


async def _lacked() -> bool:
    ago = OPEN_FILES.use().lacked_s_ago
    return ago is not None and ago < 1


async def test_redis_is_asked_once_there_is_a_file_to_connect_by(redis_url: str, low_limit: int) -> None:
    connection = RedisConnection(redis_url, timeout_s=10.0)
    assert connection.client  # its scripts are read from files, once
    with all_taken() as taken:
        asking = asyncio.gather(connection.soon("PING"), connection.soon_read("GET", "a"), return_exceptions=True)
        await eventually(_lacked, "the connection to lack a file")
        assert not asking.done()
        while len(taken) > 5:
            os.close(taken.pop())
        assert await asyncio.wait_for(asking, 10) == [True, None]
    await connection.aclose()


async def test_redis_is_away_where_no_file_comes_free(redis_url: str, low_limit: int) -> None:
    connection = RedisConnection(redis_url, timeout_s=0.5)
    assert connection.client
    with all_taken(), pytest.raises(StoreUnavailableError, match="Too many open files"):
        await connection.soon("PING")
    await connection.aclose()
