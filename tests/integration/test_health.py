"""The health endpoints tell apart a process that hangs, one whose broker is away, and one that takes nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
import pytest
from redis import Redis

from config.celery import PRIORITY_STEPS
from snakepit_bridge.client import Fleet
from snakepit_bridge.delivery.keys import DeliveryKeys
from snakepit_bridge.testing.elixir.server import BridgeServer
from tests.harness.cluster import free_ports
from tests.harness.containers import LocalRedisContainer, LocalTestWorker, local_redis
from tests.harness.health import Answer, ask, await_problems, is_refused
from tests.harness.preloaded import PreloadedPopen
from tests.harness.rabbitmq import rabbit_node
from tests.harness.stage import Stage, fresh, stage
from tests.harness.stalling import Stalling
from tests.harness.waiting import PATIENCE_S, wait_until
from workers.broker.lease_settings import HEARTBEATS_PER_LEASE

ROOT = Path(__file__).parents[2]
LIVE = {"event_loop", "lease_keeper"}
READY = {*LIVE, "report", "shutdown", "broker", "store", "release", "lm_profiles", "programs", "consumer"}


@pytest.fixture(scope="module")
def redis() -> Generator[LocalRedisContainer]:
    with local_redis() as server:
        yield server


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory, redis: LocalRedisContainer) -> Generator[Stage]:
    folder, url = tmp_path_factory.mktemp("health"), redis.celeryconfig["host_url"]
    with stage(folder, worker=False, url=url, DSPEX_LEASE_S="2") as playing:
        playing.fleet.register("qa", dspy.Predict("question -> answer"))
        yield playing


@pytest.fixture
def port() -> int:
    return free_ports(1)[0]


@contextmanager
def worker(play: Stage, port: int, pool: str = "asyncio", **settings: str) -> Generator[LocalTestWorker]:
    """A worker with health endpoints, which is killed at the end."""
    env = {"DSPEX_HEALTH_ADDRESS": f"127.0.0.1:{port}", **settings}
    started = play.start(pool=pool, concurrency=2, env=env)
    try:
        yield started
    finally:
        started.container.kill()
        play.workers.remove(started)


@pytest.mark.parametrize("pool", ["asyncio", "threads", "prefork", "solo"])
def test_a_worker_is_well_until_it_shuts_down_and_alive_until_it_has_ended(play: Stage, pool: str, port: int) -> None:
    with worker(play, port, pool) as started:
        await_problems(port, "readyz")
        assert (ask(port, "livez").checks, ask(port, "readyz").checks) == (LIVE, READY)
        assert ask(port, "startupz").status == 200
        question = fresh("q")
        play.lm.hang(1, containing=question)
        waiting = play.fleet.submit("qa", {"question": question})
        play.await_asked(question)
        started.container.kill(signal.SIGTERM)
        await_problems(port, "readyz", "shutdown")
        assert ask(port, "livez").status == 200
        play.lm.faults.clear()
        waiting.cancel()
        wait_until(lambda: is_refused(port), "the endpoints to end with the worker", timeout_s=30)


# A regular expression holds the GIL, so that no thread of the worker runs.
@pytest.mark.parametrize(
    ("pool", "way", "failing"),
    [("asyncio", "sleep", {"event_loop"}), ("asyncio", "regex", LIVE), ("threads", "regex", LIVE)],
)
def test_a_worker_whose_event_loop_hangs_is_not_alive(
    tmp_path: Path, pool: str, way: str, failing: set[str], port: int
) -> None:
    with stage(tmp_path, worker=False, DSPEX_ALLOWED_PACKAGES="tests", DSPEX_STALL_LIMIT_S="20") as playing:
        playing.fleet.register("stalling", Stalling())
        with worker(playing, port, pool) as started:
            await_problems(port, "readyz")
            playing.fleet.submit("stalling", {"question": f"{way} {fresh('q')}"})
            problems = await_problems(port, "livez", *failing)
            assert f"process {started.container.pid} has been blocked for " in problems["event_loop"]
            assert ask(port, "readyz").problems.keys() >= failing
            assert ask(port, "startupz").status == 200


def test_a_worker_whose_process_computes_for_one_prediction_is_alive(tmp_path: Path, port: int) -> None:
    with stage(tmp_path, worker=False, DSPEX_ALLOWED_PACKAGES="tests") as playing:
        playing.fleet.register("stalling", Stalling())
        with worker(playing, port, "prefork", DSPEX_STALL_LIMIT_S="2", DSPEX_HOLD_LIMIT_S="20"):
            await_problems(port, "readyz")
            waiting = playing.fleet.submit("stalling", {"question": f"sleep:8 {fresh('q')}"})
            found: list[Answer] = []

            def has_ended() -> bool:
                found.append(ask(port, "livez"))
                return waiting.ready()

            wait_until(has_ended, "the prediction to be answered", timeout_s=60)
            assert waiting.get(PATIENCE_S).answer
            assert [answer.problems for answer in found if answer.problems] == []


@pytest.mark.parametrize("pool", ["asyncio", "prefork"])
def test_a_worker_whose_broker_is_away_is_alive_and_not_ready(
    play: Stage, redis: LocalRedisContainer, pool: str, port: int
) -> None:
    with worker(play, port, pool):
        await_problems(port, "readyz")
        redis.server.kill()
        try:
            await_problems(port, "readyz", "broker", "store")
            assert ask(port, "livez").status == 200
        finally:
            redis.server.restart()
        await_problems(port, "readyz")


def lengths_read(play: Stage) -> int:
    """Return how often the server was asked for the length of a list, by commands of their own or in scripts."""
    with Redis.from_url(play.url) as client:
        found: Any = client.info("commandstats")
    return found.get("cmdstat_llen", {"calls": 0})["calls"]


@pytest.mark.parametrize("pool", ["asyncio", "prefork"])
def test_a_worker_that_takes_nothing_while_messages_wait_is_not_ready(play: Stage, pool: str, port: int) -> None:
    with worker(play, port, pool):
        await_problems(port, "readyz")
        with play.held():
            # It looks at the queue only once it takes nothing there. While no message waits, it lacks nothing.
            looked = lengths_read(play)
            wait_until(lambda: lengths_read(play) >= looked + 2 * len(PRIORITY_STEPS), "it to look at its queue twice")
            assert ask(port, "readyz").status == 200
            waiting = play.fleet.submit("qa", {"question": fresh("q")})
            problem = await_problems(port, "readyz", "consumer")["consumer"]
            assert problem == "it takes nothing from 'predictions', messages waiting there: 1"
            assert ask(port, "livez").status == 200
        assert waiting.get(PATIENCE_S).answer
        await_problems(port, "readyz")


def test_a_worker_of_rabbitmq_names_what_is_away_and_what_waits(tmp_path: Path, port: int) -> None:
    with rabbit_node() as node, local_redis() as redis:
        url = redis.celeryconfig["host_url"]
        fleet = Fleet(url, broker_url=node.url)
        with stage(tmp_path, worker=False, url=url, app=fleet.app, DSPEX_BROKER_URL=node.url) as playing:
            node.ready()
            fleet.register("qa", dspy.Predict("question -> answer"))
            with worker(playing, port):
                await_problems(port, "readyz")
                with playing.held():
                    waiting = playing.fleet.submit("qa", {"question": fresh("q")})
                    await_problems(port, "readyz", "consumer")
                assert waiting.get(PATIENCE_S).answer
                await_problems(port, "readyz")
                node.kill()
                await_problems(port, "readyz", "broker")
                assert ask(port, "livez").status == 200


def tick(play: Stage) -> int:
    """Return how many heartbeats of its workers the broker has counted, of those at a time one."""
    with Redis.from_url(play.url) as client:
        found: Any = client.hget(DeliveryKeys().ticks, "tick")
    return int(found or 0)


def test_a_worker_whose_places_are_all_taken_is_ready(play: Stage, port: int) -> None:
    with worker(play, port, DSPEX_LEASE_S="1"):
        questions = [fresh("q") for _ in range(6)]
        play.lm.hang(6, containing="q-")
        waiting = [play.fleet.submit("qa", {"question": question}) for question in questions]
        play.await_asked("q-", 2)
        began = tick(play)
        wait_until(lambda: tick(play) > began + 2 * HEARTBEATS_PER_LEASE, "several leases to pass")
        assert ask(port, "readyz").problems == {}
        for each in waiting:
            each.cancel()
        play.lm.faults.clear()


def test_a_worker_whose_address_is_taken_does_not_start(play: Stage, port: int) -> None:
    with worker(play, port):
        second = play.start(wait=False, env={"DSPEX_HEALTH_ADDRESS": f"127.0.0.1:{port}"})
        wait_until(lambda: second.container.returncode is not None, "the second worker to end", timeout_s=60)
        play.workers.remove(second)
        assert second.container.returncode == 1
        assert f"This worker can't start: Health checks can't be served on 127.0.0.1:{port}" in second.logs()
        assert ask(port, "livez").status == 200


@contextmanager
def process(port: int, url: str, *command: str) -> Generator[subprocess.Popen[bytes]]:
    env = {**os.environ, "DSPEX_REDIS_URL": url, "DSPEX_HEALTH_ADDRESS": f"127.0.0.1:{port}"}
    running = PreloadedPopen(
        [sys.executable, "-m", *command], cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    try:
        wait_until(lambda: not is_refused(port), "it to listen", timeout_s=30)
        yield running
    finally:
        running.kill()
        running.wait()


def test_a_refresher_names_the_server_that_is_away(port: int) -> None:
    with local_redis() as redis, BridgeServer() as elixir:
        url = redis.celeryconfig["host_url"]
        with process(port, url, "workers.refresher", "--bridge", elixir.address, "--timeout-s", "0.5") as refresher:
            await_problems(port, "readyz")
            assert (ask(port, "startupz").status, ask(port, "livez").checks) == (200, LIVE)
            elixir.stop()
            await_problems(port, "readyz", "elixir")
            redis.server.kill()
            await_problems(port, "readyz", "elixir", "store")
            assert ask(port, "livez").status == 200
            refresher.send_signal(signal.SIGTERM)
            assert refresher.wait(PATIENCE_S) == 0


def test_a_gateway_names_the_store_that_is_away(port: int) -> None:
    with local_redis() as redis:
        url = redis.celeryconfig["host_url"]
        command = ("snakepit_bridge.cli", "gateway", "--grpc", "127.0.0.1:0", "--no-http", "--drain", "1")
        with process(port, url, *command) as gateway:
            await_problems(port, "readyz")
            assert ask(port, "startupz").status == 200
            redis.server.kill()
            await_problems(port, "readyz", "store")
            assert (ask(port, "livez").status, ask(port, "livez").checks) == (200, {"event_loop"})
            gateway.send_signal(signal.SIGTERM)
            assert gateway.wait(PATIENCE_S) == 0
