"""The parts: each is up before the demo goes on, gone after it, and says its last words where it does not come up."""

from __future__ import annotations

from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import ConfigurationError
from tests.harness.preloaded import start_preloaded
from workers.dev.demo import parts
from workers.dev.demo.parts import redis_server, worker_processes


@pytest.fixture(autouse=True)
def preloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork the workers; tests/integration/test_demo.py starts them as the demo does."""
    monkeypatch.setattr(parts, "Child", start_preloaded)


def test_a_redis_that_is_given_is_used_and_left_alone(redis_url: str, tmp_path: Path) -> None:
    with redis_server(redis_url, tmp_path) as url:
        assert url == redis_url
    with Redis.from_url(redis_url) as client:
        assert client.ping()
    assert list(tmp_path.iterdir()) == []


def test_without_one_an_embedded_server_runs_until_the_end(tmp_path: Path) -> None:
    with redis_server(None, tmp_path) as url, Redis.from_url(url) as client:
        assert client.ping()
    with Redis.from_url(url) as client, pytest.raises(RedisConnectionError):
        client.ping()


def test_a_worker_that_does_not_come_up_says_its_last_words(redis_url: str, tmp_path: Path) -> None:
    environment = {"DSPEX_REDIS_URL": redis_url, "DSPEX_TASK_ATTEMPTS": "none"}
    with (
        pytest.raises(ConfigurationError, match=r"ended at its start\. Its last words: .*DSPEX_TASK_ATTEMPTS"),
        worker_processes(Fleet(redis_url), 1, "threads", environment, tmp_path),
    ):
        pytest.fail("it came up")


@pytest.mark.keeps_keys(r"own-queue.*")
def test_workers_are_up_within_and_gone_after(redis_url: str, tmp_path: Path) -> None:
    fleet = Fleet(redis_url, namespace="demo-parts", queue="own-queue")
    environment = {"DSPEX_REDIS_URL": redis_url, "DSPEX_NAMESPACE": "demo-parts", "DSPEX_QUEUE": "own-queue"}
    with worker_processes(fleet, 2, "threads", environment, tmp_path) as workers:
        assert all(worker.running for worker in workers)
        queues = fleet.app.control.inspect(timeout=5, limit=2).active_queues()
        assert {name.split("@")[0] for name in queues} == {"demo1", "demo2"}
        assert {queue["name"] for each in queues.values() for queue in each} == {"own-queue"}
    assert not any(worker.running for worker in workers)
    assert [worker.returncode for worker in workers] == [0, 0], "they ended in good order"


def test_workers_end_with_the_demo_that_fails(redis_url: str, tmp_path: Path) -> None:
    seen = []
    with (  # noqa: PT012  (the block is what fails)
        pytest.raises(ZeroDivisionError),
        worker_processes(Fleet(redis_url), 1, "solo", {"DSPEX_REDIS_URL": redis_url}, tmp_path) as workers,
    ):
        seen += workers
        raise ZeroDivisionError
    assert [worker.running for worker in seen] == [False]
