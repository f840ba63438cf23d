"""What happens to a session when its refresher is killed, with real processes and their defaults."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.exceptions import SessionNotFoundError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.testing.elixir.server import BridgeServer
from tests.harness.preloaded import PythonProcess, start_preloaded
from tests.harness.waiting import PATIENCE_S, Stopwatch, wait_until, within
from workers.refresher.leases import RefresherLeases

ROOT = Path(__file__).parents[2]
SESSION, LEASE = "shop", "dspex:{s:shop}:lease"
# A new process takes seconds to load on a busy machine.
START_S = PATIENCE_S

Start = Callable[..., PythonProcess]


@pytest.fixture
def elixir() -> Generator[BridgeServer]:
    with BridgeServer() as server:
        server.begin(SESSION)
        server.register(SESSION, "n", "integer", 0)
        yield server


@pytest.fixture
def start(elixir: BridgeServer, redis_url: str, tmp_path: Path) -> Generator[Start]:
    """Start refreshers with their defaults except for the given options."""
    with ExitStack() as running:

        def make(name: str, *options: str) -> PythonProcess:
            command = [sys.executable, "-m", "workers.refresher", "--bridge", elixir.address, "--redis-url", redis_url]
            command += ["--sessions", SESSION, "--name", name, *options]  # later options win
            process = start_preloaded(command, tmp_path / f"{name}.log", env=os.environ, cwd=ROOT)
            running.callback(process.end, signal.SIGKILL)
            return process

        yield make


def seen(redis_url: str) -> Any:
    async def value() -> Any:
        store = RedisStore(redis_url)
        try:
            return (await store.read(SESSION)).variables["n"].value
        except SessionNotFoundError:
            return None
        finally:
            await store.aclose()

    return run_blocking(value())


def shows(redis_url: str, elixir: BridgeServer, number: int) -> float:
    """Change the variable in Elixir, wait until the store has it, and return the seconds that it took."""
    watch = Stopwatch()
    elixir.set(SESSION, "n", number)
    wait_until(lambda: seen(redis_url) == number, f"n = {number} in the store", timeout_s=START_S)
    return watch.elapsed_s


def holder(client: Redis) -> str:
    """Return the owner of the session's lease: the refresher's name and the id of its process."""
    return str(client.get(LEASE) or b"", "utf-8")  # pyright: ignore[reportArgumentType]


def named(lease: str) -> str:
    return lease.rpartition("/")[0]


def test_another_refresher_takes_over_within_three_seconds_of_a_kill(
    elixir: BridgeServer, redis_url: str, start: Start
) -> None:
    with Redis.from_url(redis_url) as client:
        processes = {name: start(name) for name in ("one", "two")}
        wait_until(lambda: client.zcard("dspex:refreshers") == 2, "two refreshers", timeout_s=START_S)
        shows(redis_url, elixir, 1)
        dead = holder(client)
        assert 0 < client.pttl(LEASE) <= 2_000, "what nobody renews ends within two seconds"
        processes[named(dead)].end(signal.SIGKILL)
        assert shows(redis_url, elixir, 2) < 3.5, "three seconds, and what it takes to notice here"
        assert named(holder(client)) == ({"one", "two"} - {named(dead)}).pop()


def test_a_single_refresher_restarted_under_its_name_resumes_at_once(
    elixir: BridgeServer, redis_url: str, start: Start
) -> None:
    """With a lease of ten minutes, it doesn't wait for the lease to expire once it has loaded."""
    first = start("me", "--lease-s", "600")
    shows(redis_url, elixir, 1)
    first.end(signal.SIGKILL)
    with Redis.from_url(redis_url) as client:
        before = holder(client)
        assert client.pttl(LEASE) > 60_000
        elixir.set(SESSION, "n", 2)
        start("me", "--lease-s", "600")
        wait_until(lambda: client.zscore("dspex:refreshers", before) is None, "the new one", timeout_s=START_S)
        with within(1.5):
            wait_until(lambda: seen(redis_url) == 2, "n = 2 in the store")
        assert named(before) == named(holder(client)) == "me"
        assert before != holder(client)


def test_a_single_refresher_without_a_name_waits_no_longer_than_its_lease(
    elixir: BridgeServer, redis_url: str, start: Start
) -> None:
    first = start("one")
    shows(redis_url, elixir, 1)
    with Redis.from_url(redis_url) as client:
        start("two")  # loads while the other one still holds the session
        wait_until(lambda: client.zcard("dspex:refreshers") == 2, "two refreshers", timeout_s=START_S)
        dead = named(holder(client))
        assert dead == "one", "a lone session isn't passed on"
        first.end(signal.SIGKILL)
        assert shows(redis_url, elixir, 2) < 3.5


def test_two_refreshers_with_one_name_divide_the_sessions(elixir: BridgeServer, redis_url: str, start: Start) -> None:
    """Each process has an id of its own, so neither mistakes the other's leases for its own."""
    sessions = [f"s{n}" for n in range(8)]
    for session in sessions:
        elixir.begin(session)
        elixir.register(session, "n", "integer", 0)
    options = ("--sessions", ",".join(sessions))
    with Redis.from_url(redis_url) as client:

        def held() -> dict[str, int]:
            leases = [client.get(f"dspex:{{s:{session}}}:lease") or b"" for session in sessions]
            owners = [str(lease, "utf-8") for lease in leases]  # pyright: ignore[reportArgumentType]
            return {owner: owners.count(owner) for owner in {*owners}}

        first = start("twin", *options)
        wait_until(lambda: list(held().values()) == [8] and "" not in held(), "one to hold all", timeout_s=START_S)
        [older] = held()
        start("twin", *options)
        wait_until(lambda: sorted(held().values()) == [4, 4] and "" not in held(), "half for each", timeout_s=START_S)
        assert older in held()
        assert {named(owner) for owner in held()} == {"twin"}
        shared, until = (
            held(),
            time.monotonic() + 3,
        )  # longer than a lease: both continue, and neither takes from the other
        while time.monotonic() < until:
            assert held() == shared
            time.sleep(0.1)
        first.end(signal.SIGKILL)
        wait_until(lambda: list(held().values()) == [8] and older not in held(), "the other to hold all")


async def test_a_later_process_of_a_name_takes_over_from_an_earlier_one_and_never_the_reverse(redis_url: str) -> None:
    connection = RedisConnection(redis_url)
    older, newer, other = (RefresherLeases(connection, "dspex", name, 60.0) for name in ("me", "me", "other"))
    assert await older.register() == 1
    assert await older.acquire(["a", "b"]) == {"a", "b"}
    assert await newer.find_free(["a"]) == set(), "it doesn't know yet who came before it"
    assert await newer.register() == 1, "the earlier one counts again once it comes again"
    assert await newer.find_free(["a", "b", "c"]) == {"a", "b", "c"}
    assert await newer.acquire(["a"]) == set(), "renewing takes nothing over"
    assert await newer.acquire(["a"], take_over=True) == {"a"}
    assert await older.register() == await newer.register() == 2
    assert await older.find_free(["a"]) == set()
    assert await older.acquire(["a", "b"], take_over=True) == {"b"}
    await older.release(["a"])
    assert await newer.acquire(["a"]) == {"a"}
    assert await other.register() == 3
    assert await other.acquire(["a", "b"], take_over=True) == set()
    assert older.owner != newer.owner
    assert {named(refresher.owner) for refresher in (older, newer)} == {"me"}
    await connection.aclose()
