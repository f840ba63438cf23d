"""A task that kills whoever runs it: the fleet gives it up, says so to who waits for it, and goes on."""

from __future__ import annotations

from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.exceptions import PredictionGivenUpError
from tests.harness.broker import dead
from tests.harness.containers import WorkerSpec
from tests.harness.fixtures import StartWorker
from tests.harness.waiting import wait_until

pytestmark = pytest.mark.chaos

SPEC = WorkerSpec(
    app="tests.chaos.worker_app", pool="prefork", concurrency=1, queues=("poison",), name="poison",
    env={"DSPEX_MAX_DELIVERIES": "2", "DSPEX_LEASE_S": "1"}, preloaded=True,
)  # fmt: skip


@pytest.fixture
def worker_spec() -> WorkerSpec:
    return SPEC


def state(result: Any) -> str:
    return result.state


def test_a_task_that_kills_its_process_is_given_up_and_others_go_on(start_worker: StartWorker, broker_url: str) -> None:
    worker = start_worker()
    poison = worker.app.send_task("poison.kill", queue="poison")
    after = worker.app.send_task("poison.add", (2, 3), queue="poison")
    wait_until(lambda: state(after) == "SUCCESS", "the next task to be run", timeout_s=60)
    wait_until(lambda: state(poison) == "FAILURE", "the poison to be given up", timeout_s=60)
    assert isinstance(poison.result, PredictionGivenUpError)
    assert poison.result.reason == "lost"
    with Redis.from_url(broker_url) as client:
        (entry,) = dead(client)
    assert (entry["task"], entry["task_id"], entry["deliveries"]) == ("poison.kill", poison.id, 2)
    assert "SIGKILL" in entry["error"]


def test_a_task_that_nobody_knows_is_kept_for_an_operator(start_worker: StartWorker, broker_url: str) -> None:
    worker = start_worker()
    unknown = worker.app.send_task("poison.unknown", queue="poison")
    wait_until(lambda: state(unknown) == "FAILURE", "it to be refused", timeout_s=60)
    with Redis.from_url(broker_url) as client:
        (entry,) = wait_until(lambda: dead(client), "it to be on the dead list")
    assert (entry["reason"], entry["task_id"]) == ("rejected", unknown.id)
    assert type(unknown.result).__name__ == "NotRegistered"


def test_rubbish_in_the_queue_ends_no_worker(start_worker: StartWorker, broker_url: str) -> None:
    worker = start_worker()
    with Redis.from_url(broker_url) as client:
        for raw in (b"\xff", b"{}", b'{"properties": {"delivery_info": {}}, "headers": {"task": "poison.add"}}'):
            client.lpush("poison", raw)
        after = worker.app.send_task("poison.add", (2, 3), queue="poison")
        wait_until(lambda: state(after) == "SUCCESS", "the next task to be run", timeout_s=60)
        assert len(wait_until(lambda: found if len(found := dead(client)) == 3 else None, "three dead")) == 3
    assert worker.container.returncode is None
