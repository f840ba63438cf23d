"""KINDS 28: what happens to a session when its refresher is killed, by real processes with their defaults."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.exceptions import SessionNotFoundError
from snakepit_bridge.loop import run_blocking
from snakepit_bridge.stores import RedisStore
from snakepit_bridge.testing.bridge_server import BridgeServer
from tests.harness.waiting import wait_until

ROOT = Path(__file__).parents[2]
SESSION, LEASE = "shop", "dspex:{s:shop}:lease"
# A new process takes seconds to load on a busy machine.
START_S = 60.0

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def elixir() -> Generator[BridgeServer]:
    with BridgeServer() as server:
        server.begin(SESSION)
        server.register(SESSION, "n", "integer", 0)
        yield server


@pytest.fixture
def start(elixir: BridgeServer, redis_url: str, tmp_path: Path) -> Generator[Start]:
    """Starts refreshers with their defaults, but for what is named."""
    with ExitStack() as running:

        def make(name: str, *options: str) -> subprocess.Popen[bytes]:
            command = [sys.executable, "-m", "workers.refresher", "--bridge", elixir.address, "--redis-url", redis_url]
            command += ["--sessions", SESSION, "--name", name, *options]
            log = running.enter_context((tmp_path / f"{name}.log").open("ab"))
            process = subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT)
            running.callback(process.wait, 10)
            running.callback(process.kill)
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
    """Changes the variable in Elixir and waits until the store shows it; returns the seconds that it took."""
    start = time.monotonic()
    elixir.set(SESSION, "n", number)
    wait_until(lambda: seen(redis_url) == number, f"n = {number} in the store", timeout_s=START_S)
    return time.monotonic() - start


def test_another_takes_over_within_three_seconds_of_a_kill(elixir: BridgeServer, redis_url: str, start: Start) -> None:
    with Redis.from_url(redis_url) as client:
        processes = {name: start(name) for name in ("one", "two")}
        wait_until(lambda: client.zcard("dspex:refreshers") == 2, "two refreshers", timeout_s=START_S)
        shows(redis_url, elixir, 1)
        holder = str(client.get(LEASE), "utf-8")  # pyright: ignore[reportArgumentType]
        assert 0 < client.pttl(LEASE) <= 2_000, "what nobody renews ends within two seconds"
        processes[holder].kill()
        took_s = shows(redis_url, elixir, 2)
        assert client.get(LEASE) != holder.encode()
        assert took_s < 3 + 3, "the rest is allowed to a busy machine"


def test_a_lone_refresher_that_is_started_again_goes_on_under_its_name_at_once(
    elixir: BridgeServer, redis_url: str, start: Start
) -> None:
    """With a lease of ten minutes: it doesn't wait for its own."""
    first = start("me", "--lease-s", "600")
    shows(redis_url, elixir, 1)
    first.kill()
    first.wait(10)
    with Redis.from_url(redis_url) as client:
        assert client.pttl(LEASE) > 60_000
        start("me", "--lease-s", "600")
        shows(redis_url, elixir, 2)
        assert client.get(LEASE) == b"me"


def test_a_lone_refresher_without_a_name_waits_no_longer_than_its_lease(
    elixir: BridgeServer, redis_url: str, start: Start
) -> None:
    first = start("one")
    shows(redis_url, elixir, 1)
    first.kill()
    first.wait(10)
    start("two")
    shows(redis_url, elixir, 2)
