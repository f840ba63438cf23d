"""Follow sessions through restarts, partitions, kills and pauses: nothing is lost, nothing old published."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots import RedisStore, Retention
from snakepit_bridge.testing.elixir.server import BridgeServer
from tests.harness.preloaded import PythonProcess, start_preloaded
from tests.harness.waiting import eventually
from tests.integration.refresher_load import Counts, Load
from tests.integration.refresher_proxy import Network
from workers.refresher import Refresher, RefresherSettings

ROOT = Path(__file__).parents[2]
SESSIONS = tuple(f"s{n}" for n in range(4))
QUICK: dict[str, Any] = {"poll_s": 0.02, "poll_max_s": 0.1, "settle_s": 0.3, "lease_s": 1.5, "timeout_s": 0.5}

StartProcess = Callable[[str], PythonProcess]


def nothing_went_wrong(counts: Counts) -> None:
    sys.stderr.write(f"{counts}\n")
    assert (counts.lost, counts.stale, counts.backward) == (0, 0, 0), counts


@pytest.fixture
def elixir(request: pytest.FixtureRequest) -> Generator[BridgeServer]:
    with BridgeServer(watch=getattr(request, "param", False)) as server:
        yield server


@pytest.fixture
async def load(elixir: BridgeServer, redis_url: str) -> AsyncGenerator[Load]:
    store = RedisStore(redis_url, retention=Retention(1_000_000))
    started = Load(elixir, store, SESSIONS)
    started.register()
    yield started
    await store.aclose()


@pytest.fixture
async def network(elixir: BridgeServer) -> AsyncGenerator[Network]:
    started = Network(elixir.address)
    await started.start()
    yield started
    await started.stop()


@pytest.fixture
async def refresher(network: Network, redis_url: str) -> AsyncGenerator[Refresher]:
    stop = asyncio.Event()
    started = Refresher(RefresherSettings(network.address, redis_url, sessions=SESSIONS, **QUICK))
    running = asyncio.create_task(started.run(stop))
    yield started
    network.mend()
    stop.set()
    await running


@pytest.fixture
def start_process(elixir: BridgeServer, redis_url: str, tmp_path: Path) -> Generator[StartProcess]:
    """Start refreshers as processes, which are killed at the end."""
    options = [part for name, value in QUICK.items() for part in (f"--{name.replace('_', '-')}", str(value))]
    command = [sys.executable, "-m", "workers.refresher", "--bridge", elixir.address, "--redis-url", redis_url]
    with ExitStack() as running:

        def start(name: str) -> PythonProcess:
            arguments = [*command, "--sessions", ",".join(SESSIONS), "--name", name, *options]
            process = start_preloaded(arguments, tmp_path / f"{name}.log", env=os.environ, cwd=ROOT)
            running.callback(process.end, signal.SIGKILL)
            return process

        yield start


both_ways = pytest.mark.parametrize("elixir", [False, True], ids=["polling", "watching"], indirect=True)


async def restarts(load: Load, times: int) -> None:
    for _ in range(times):
        await load.newly_confirmed(random.choice(SESSIONS))
        await asyncio.to_thread(load.elixir.restart, random.uniform(0, 0.2))
        load.register()
    await load.newly_confirmed(SESSIONS[0])


@both_ways
@pytest.mark.chaos
@pytest.mark.usefixtures("refresher")
async def test_restarts_of_elixir_with_repeated_ids_and_other_values_lose_nothing(load: Load) -> None:
    async with load.running(changes=100):
        await restarts(load, 5)
    nothing_went_wrong(await load.settle())


@both_ways
@pytest.mark.chaos
@pytest.mark.soak
@pytest.mark.usefixtures("refresher")
async def test_a_hundred_restarts_of_elixir_lose_nothing(load: Load) -> None:
    async with load.running(changes=2_000):
        await restarts(load, 100)
    nothing_went_wrong(await load.settle())


async def partitions(load: Load, network: Network, lengths_s: tuple[float, ...]) -> None:
    for length in lengths_s:
        await load.newly_confirmed(random.choice(SESSIONS))
        network.cut()
        await asyncio.sleep(length)
        network.mend()
    for session in SESSIONS:
        await load.newly_confirmed(session)


@both_ways
@pytest.mark.chaos
@pytest.mark.usefixtures("refresher")
async def test_partitions_lose_nothing_and_nothing_is_confirmed_during_them(load: Load, network: Network) -> None:
    async with load.running(changes=300):
        await partitions(load, network, (0.3, 1.0, 2.0))
    nothing_went_wrong(await load.settle())


@both_ways
@pytest.mark.chaos
@pytest.mark.soak
@pytest.mark.usefixtures("refresher")
async def test_partitions_of_up_to_a_minute_lose_nothing(load: Load, network: Network) -> None:
    async with load.running(changes=5_000):
        await partitions(load, network, (1, 3, 10, 30, 60))
    nothing_went_wrong(await load.settle())


async def kills(load: Load, start: StartProcess, times: int) -> None:
    process = start("a0")
    await published(load)
    for number in range(1, times + 1):
        await load.newly_confirmed(random.choice(SESSIONS))
        await asyncio.to_thread(process.end, signal.SIGKILL)
        process = start(f"a{number}")
    for session in SESSIONS:
        await load.newly_confirmed(session)


async def published(load: Load) -> None:
    async def found() -> bool:
        return set(await load.store.sessions()) == set(SESSIONS)

    await eventually(found, "the first publish of every session")


@both_ways
@pytest.mark.chaos
async def test_a_refresher_killed_under_load_is_replaced_without_loss(load: Load, start_process: StartProcess) -> None:
    async with load.running(changes=200):
        await kills(load, start_process, 2)
    nothing_went_wrong(await load.settle())


@pytest.mark.chaos
@pytest.mark.soak
async def test_thirty_kills_of_a_refresher_lose_nothing(load: Load, start_process: StartProcess) -> None:
    async with load.running(changes=3_000):
        await kills(load, start_process, 30)
    nothing_went_wrong(await load.settle())


async def holders(connection: RedisConnection) -> set[str]:
    found = await connection.send_each([("GET", f"dspex:{{s:{session}}}:lease") for session in SESSIONS])
    return {holder.decode().rpartition("/")[0] for holder in found if holder}


async def pauses(load: Load, redis_url: str, start: StartProcess, times: int) -> None:
    connection = RedisConnection(redis_url)
    paused, other = start("paused"), start("other")

    async def held_by(*names: str) -> None:
        async def found() -> bool:
            return await holders(connection) == set(names)

        await eventually(found, f"the leases to be held by {names}", timeout_s=30)

    for _ in range(times):
        await held_by("paused", "other")
        paused.send_signal(signal.SIGSTOP)
        await held_by("other")
        for session in SESSIONS:
            await load.newly_confirmed(session)
        paused.send_signal(signal.SIGCONT)
    await held_by("paused", "other")
    for session in SESSIONS:
        await load.newly_confirmed(session)
    assert other.running
    assert paused.running
    await connection.aclose()


@both_ways
@pytest.mark.chaos
async def test_a_refresher_that_wakes_from_a_pause_publishes_nothing_old(
    load: Load, redis_url: str, start_process: StartProcess
) -> None:
    async with load.running(changes=300):
        await pauses(load, redis_url, start_process, 2)
    nothing_went_wrong(await load.settle())


@pytest.mark.chaos
@pytest.mark.soak
async def test_twenty_pauses_of_a_refresher_publish_nothing_old(
    load: Load, redis_url: str, start_process: StartProcess
) -> None:
    async with load.running(changes=5_000):
        await pauses(load, redis_url, start_process, 20)
    nothing_went_wrong(await load.settle())
