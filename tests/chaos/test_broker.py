"""A broker that goes while tasks run: they go on, are acknowledged once it is back, and none runs twice."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import RedisContainer
from redis import Redis
from redis.exceptions import RedisError

from tests.harness.broker import held
from tests.harness.containers import LocalRedisContainer, LocalTestWorker, WorkerSpec
from tests.harness.fixtures import StartWorker
from tests.harness.servers import await_log_written
from tests.harness.waiting import wait_until
from workers.pools import Pool

LEASE_S = 1.0
QUEUE = "poison"

pytestmark = pytest.mark.chaos


@pytest.fixture
def pool() -> Pool:
    return Pool.asyncio


@pytest.fixture
def worker(pool: Pool, start_worker: StartWorker) -> LocalTestWorker:
    env = {"DSPEX_LEASE_S": str(LEASE_S)}
    spec = WorkerSpec("tests.chaos.worker_app", pool.value, queues=(QUEUE,), name="w", env=env, preloaded=True)
    return start_worker(spec)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    return tmp_path / "begun"


def begun(log: Path) -> int:
    return len(log.read_text().splitlines()) if log.exists() else 0


def ended(result: Any) -> bool:
    try:
        return result.state == "SUCCESS"
    except RedisError:
        return False


def open_claims(url: str) -> int | None:
    try:
        with Redis.from_url(url) as client:
            return len(held(client))
    except RedisError:
        return None


def assert_each_ran_once(worker: LocalTestWorker, results: list[Any], log: Path, url: str) -> None:
    wait_until(lambda: all(ended(sent) for sent in results), "the tasks to end", timeout_s=60)
    after = worker.app.send_task("poison.add", (2, 3), queue=QUEUE)
    wait_until(lambda: ended(after), "the worker to go on", timeout_s=60)
    wait_until(lambda: open_claims(url) == 0, "the acknowledgements")
    assert begun(log) == len(results)
    assert worker.container.returncode is None


@pytest.mark.parametrize(
    ("pool", "task"),
    [(Pool.threads, "poison.slow"), (Pool.asyncio, "poison.slow_async"), (Pool.prefork, "poison.slow")],
)
def test_a_restart_with_tasks_in_hand(
    task: str, worker: LocalTestWorker, default_redis_broker: RedisContainer, broker_url: str, log: Path
) -> None:
    assert isinstance(default_redis_broker, LocalRedisContainer)
    results = [worker.app.send_task(task, (str(log), 4.0), queue=QUEUE) for _ in range(2)]
    wait_until(lambda: begun(log) == 2, "both to run", timeout_s=30)
    await_log_written(broker_url)
    default_redis_broker.server.kill()
    default_redis_broker.server.restart()
    assert_each_ran_once(worker, results, log, broker_url)


def test_a_pause_of_several_leases(
    worker: LocalTestWorker, default_redis_broker: RedisContainer, broker_url: str, log: Path
) -> None:
    assert isinstance(default_redis_broker, LocalRedisContainer)
    results = [worker.app.send_task("poison.slow", (str(log), 2.0), queue=QUEUE) for _ in range(2)]
    wait_until(lambda: begun(log) == 2, "both to run", timeout_s=30)
    os.kill(default_redis_broker.server.pid, signal.SIGSTOP)
    stopped = time.monotonic()
    wait_until(lambda: time.monotonic() - stopped > 4 * LEASE_S, "four leases to pass")
    os.kill(default_redis_broker.server.pid, signal.SIGCONT)
    assert_each_ran_once(worker, results, log, broker_url)
