"""Waiting for results: no polling, nothing that falls between look and subscription, and every end has its name."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError, WorkerLostError
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.results import Results
from snakepit_bridge.exceptions import (
    BridgeError,
    ConfigurationError,
    DeadlineExceededError,
    InputError,
    LMUnavailableError,
    PredictionCancelledError,
    PredictionFailedError,
)
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import VERSION, Result
from tests.conftest import wait_until
from tests.harness.stage import fresh
from tests.harness.waiting import PATIENCE_S, within
from tests.unit.protocol.test_provenance import SAMPLE
from workers.dev.redis_server import EmbeddedRedis

DONE = Result({"answer": "42"}, SAMPLE.encode()).encode()


@pytest.fixture
def fleet(redis_url: str) -> Fleet:
    return Fleet(redis_url, wait_s=5)


@pytest.fixture
def task() -> str:
    """An id that no other test waits for: channels belong to the server, not to one of its databases."""
    return fresh("task")


def results_of(fleet: Fleet) -> Results:
    return fleet.results


def subscribers(url: str, task_id: str) -> int:
    with Redis.from_url(url) as client:
        return client.pubsub_numsub(f"celery-task-meta-{task_id}")[0][1]


@pytest.mark.parametrize("state", ["PENDING", "STARTED", "RETRY", "RECEIVED"])
def test_a_state_that_is_not_final_is_waited_through(fleet: Fleet, state: str) -> None:
    stored: Any = LMUnavailableError("m", "c", "text") if state == "RETRY" else None
    fleet.app.backend.store_result("task", stored, state)
    assert not fleet.handle("task").ready()
    assert fleet.handle("task").status == state
    with within(1), pytest.raises(BridgeError, match="had no result"):
        fleet.handle("task").get(0.1)


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (InputError("qa", "question", "it is missing", ("question",)), InputError, "it is missing"),
        (DeadlineExceededError("task", 1.5), DeadlineExceededError, r"missed its deadline by 1\.5 s"),
        (WorkerLostError("Worker exited prematurely: signal 9"), PredictionFailedError, "WorkerLostError: .*signal 9"),
        (ZeroDivisionError("division by zero"), PredictionFailedError, "ZeroDivisionError: division by zero"),
        (TaskRevokedError("revoked"), PredictionCancelledError, "was cancelled"),
    ],
)
def test_what_a_task_ended_with_has_a_name(fleet: Fleet, raised: Exception, kind: type[BridgeError], says: str) -> None:
    fleet.app.backend.store_result("task", raised, "FAILURE")
    with pytest.raises(BridgeError, match=says) as got:
        fleet.handle("task").get(1)
    assert type(got.value) is kind
    assert fleet.handle("task").ready()


def test_a_deadline_that_the_task_missed_is_not_taken_for_the_clients_own(fleet: Fleet) -> None:
    # Both are a TimeoutError.
    fleet.app.backend.store_result("task", DeadlineExceededError("task", 1.5), "FAILURE")
    with pytest.raises(DeadlineExceededError):
        fleet.handle("task").get(0.5)


@pytest.mark.parametrize("stored", [None, 42, "text", ["list"]])
def test_a_result_that_is_no_prediction_is_named(fleet: Fleet, stored: Any) -> None:
    fleet.app.backend.store_result("task", stored, "SUCCESS")
    with pytest.raises(PredictionFailedError, match=r"task task is no prediction: its result is"):
        fleet.handle("task").get(1)


def test_a_result_of_a_newer_worker_says_to_upgrade(fleet: Fleet) -> None:
    fleet.app.backend.store_result("task", {**DONE, "v": VERSION + 1}, "SUCCESS")
    with pytest.raises(ConfigurationError, match=rf"version {VERSION + 1}, this client reads {VERSION}\. Upgrade"):
        fleet.handle("task").get(1)


def test_waiting_costs_no_polling(task: str) -> None:
    # A server of its own: it counts every command.
    with EmbeddedRedis.start() as server:
        count_gets_while_waiting(Fleet(server.url, wait_s=5), server.url, task)


def count_gets_while_waiting(fleet: Fleet, redis_url: str, task: str) -> None:
    run_blocking(fleet.connection.send_each([("PING",)]))  # before anything else it reads the format of the data
    with Redis.from_url(redis_url) as client:

        def count_all_gets() -> int:
            return client.info("commandstats").get("cmdstat_get", {}).get("calls", 0)

        before = count_all_gets()

        def count_gets() -> int:
            return count_all_gets() - before

        waiting = run_in_background(lambda: fleet.handle(task).get(PATIENCE_S))
        # It subscribes first, and then looks once whether the result came before.
        wait_until(count_gets, "its look at the result")
        assert subscribers(redis_url, task)
        time.sleep(0.3)
        assert count_gets() == 1
    with within(1):
        fleet.app.backend.store_result(task, DONE, "SUCCESS")
        assert waiting().answer == "42"


def test_the_last_waiter_unsubscribes_and_not_the_first(fleet: Fleet, redis_url: str, task: str) -> None:
    short = run_in_background(lambda: fleet.handle(task).get(0.3))
    long = run_in_background(lambda: fleet.handle(task).get(PATIENCE_S))
    wait_until(lambda: subscribers(redis_url, task), "the subscription")
    with pytest.raises(BridgeError, match="had no result"):
        short()
    assert subscribers(redis_url, task) == 1, "one connection for all waiters of a process"
    fleet.app.backend.store_result(task, DONE, "SUCCESS")
    assert long().answer == "42"
    wait_until(lambda: not subscribers(redis_url, task), "the subscription to end")


def test_a_thousand_waiters_share_one_connection(fleet: Fleet, redis_url: str) -> None:
    results = results_of(fleet)
    before = _subscribed(redis_url)

    async def wait_for_all() -> list[Result]:
        # The stopwatch below is the bound, and leaves out what a busy machine takes.
        waiting = [asyncio.create_task(results.wait(f"task-{number}", 80)) for number in range(1000)]
        await asyncio.sleep(0)
        encoded = {f"task-{number}": fleet.app.backend.encode(_meta(f"task-{number}")) for number in range(1000)}
        client = results._connection.client
        for task_id, message in encoded.items():
            pipeline = client.pipeline(transaction=False)
            pipeline.set(f"celery-task-meta-{task_id}", message, ex=60)
            pipeline.publish(f"celery-task-meta-{task_id}", message)
            await pipeline.execute()
        return await asyncio.gather(*waiting)

    with within(15):
        assert len(run_blocking(wait_for_all())) == 1000
    assert results._waiting.keys() <= {key for key in results._waiting if key.startswith("dspex:results:")}
    assert _subscribed(redis_url) <= before + 1


def test_a_subscription_that_is_lost_comes_back_and_misses_nothing(fleet: Fleet, redis_url: str, task: str) -> None:
    waiting = run_in_background(lambda: fleet.handle(task).get(PATIENCE_S))
    wait_until(lambda: subscribers(redis_url, task), "the subscription")
    with Redis.from_url(redis_url) as client:
        for connection in client.client_list(_type="pubsub"):
            client.client_kill_filter(_id=connection["id"])
    fleet.app.backend.store_result(task, DONE, "SUCCESS")
    with within(4):
        assert waiting().answer == "42"


def test_a_cancellation_gives_way_to_nothing_and_expires(fleet: Fleet, redis_url: str) -> None:
    fleet.app.backend.store_result("task", LMUnavailableError("m", "c", "text"), "RETRY")
    assert run_blocking(results_of(fleet).cancel("task"))
    with Redis.from_url(redis_url) as client:
        assert 0 < client.ttl("celery-task-meta-task") <= 86_400
    with pytest.raises(PredictionCancelledError):
        fleet.handle("task").get(1)


def _meta(task_id: str) -> dict[str, Any]:
    return {"status": "SUCCESS", "result": DONE, "traceback": None, "children": [], "task_id": task_id}


def _subscribed(url: str) -> int:
    """How many connections subscribe to anything in this database; earlier tests may have left some of theirs."""
    database = url.rsplit("/", 1)[1]
    with Redis.from_url(url) as client:
        return sum(int(connection["sub"]) > 0 and connection["db"] == database for connection in client.client_list())


def run_in_background(work: Callable[[], Any]) -> Callable[[], Any]:
    """Run it in a thread; the returned function waits for its end and returns or raises what it did."""
    from concurrent.futures import ThreadPoolExecutor

    pool = ThreadPoolExecutor(1)
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return lambda: future.result(PATIENCE_S)
