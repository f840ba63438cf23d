"""The running predictions of a process: found by their task, ended together, looked at in one go."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.exceptions import DeadlineExceededError, PredictionCancelledError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.pubsub import Subscription, text_handler
from tasks.cancellation import CancellationRegistry
from tasks.prediction_context import PredictionContext
from tests.harness.waiting import eventually
from tests.unit.tasks.callers import scope_of


@pytest.fixture
async def running(redis_url: str) -> AsyncIterator[CancellationRegistry]:
    connection = RedisConnection(redis_url)
    signals = Subscription(connection)
    running = CancellationRegistry(connection, signals, namespace="dspex")
    yield running
    await running.aclose()
    await signals.aclose()
    await connection.aclose()


async def run(running: CancellationRegistry, scope: PredictionContext, began: asyncio.Event) -> None:
    with running.track(scope):
        began.set()
        await asyncio.Event().wait()


async def test_a_told_cancellation_ends_the_prediction(running: CancellationRegistry, redis_url: str) -> None:
    scope, began = scope_of(), asyncio.Event()
    task = asyncio.create_task(run(running, scope, began))
    await began.wait()
    with Redis.from_url(redis_url) as client:

        async def heard() -> bool:
            client.publish("dspex:cancel", "task")
            return task.done()

        await eventually(heard, "the cancellation is heard")
    with pytest.raises(PredictionCancelledError):
        await task
    assert scope.is_cancelled


async def test_others_may_listen_to_the_same_channel(redis_url: str) -> None:
    connection, heard = RedisConnection(redis_url), list[str]()
    signals = Subscription(connection)
    for number in range(2):
        signals.register("told", text_handler(lambda message, number=number: heard.append(f"{number} {message}")))
    signals.start()
    with Redis.from_url(redis_url) as client:

        async def heard_all() -> bool:
            return bool(client.publish("told", "x")) and len(heard) >= 2

        await eventually(heard_all, "both hear it")
    assert {"0 x", "1 x"} <= set(heard)
    await signals.aclose()
    await connection.aclose()


async def test_all_that_runs_under_the_task_ends_and_nothing_else(running: CancellationRegistry) -> None:
    mine, twin, other = scope_of(), scope_of(), scope_of("other")
    events = [asyncio.Event() for _ in range(3)]
    tasks = [
        asyncio.create_task(run(running, scope, began))
        for scope, began in zip((mine, twin, other), events, strict=True)
    ]
    await asyncio.gather(*(event.wait() for event in events))
    running.cancel("task")
    ends: Any = await asyncio.gather(*tasks[:2], return_exceptions=True)
    assert [type(end) for end in ends] == [PredictionCancelledError] * 2
    assert not tasks[2].done()
    tasks[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[2]


async def test_somebody_elses_cancellation_stays_one(running: CancellationRegistry) -> None:
    began = asyncio.Event()
    task = asyncio.create_task(run(running, scope_of(), began))
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


@pytest.mark.parametrize(("state", "refused"), [("REVOKED", True), ("SUCCESS", True), ("RETRY", False)])
async def test_a_prediction_that_has_ended_calls_no_lm(
    running: CancellationRegistry, redis_url: str, state: str, refused: bool
) -> None:
    scope = scope_of()
    scope.checked_at = float("-inf")
    with Redis.from_url(redis_url) as client:
        client.set("celery-task-meta-task", json.dumps({"status": state}), ex=60)
    if refused:
        with pytest.raises(PredictionCancelledError):
            await running.check_wanted(scope)
    else:
        await running.check_wanted(scope)


async def test_an_expired_prediction_calls_no_lm(running: CancellationRegistry) -> None:
    with pytest.raises(DeadlineExceededError):
        await running.check_wanted(scope_of(deadline=time.time() - 1))


async def test_the_looks_of_one_turn_of_the_loop_are_one_command(running: CancellationRegistry, redis_url: str) -> None:
    scopes = [scope_of(f"task-{number}") for number in range(100)]
    for scope in scopes:
        scope.checked_at = float("-inf")
    with Redis.from_url(redis_url) as client:
        await running.check_wanted(scope_of("warm"))
        before: Any = client.info("commandstats")
        await asyncio.gather(*(running.check_wanted(scope) for scope in scopes))
        after: Any = client.info("commandstats")
    assert after["cmdstat_mget"]["calls"] - before.get("cmdstat_mget", {"calls": 0})["calls"] == 1


async def test_without_redis_predictions_go_on(caplog: pytest.LogCaptureFixture) -> None:
    connection = RedisConnection("redis://127.0.0.1:1/0", timeout_s=0.2)
    running = CancellationRegistry(connection, Subscription(connection), namespace="dspex")
    scopes = [scope_of(f"task-{number}") for number in range(20)]
    for scope in scopes:
        scope.checked_at = float("-inf")
    await asyncio.gather(*(running.check_wanted(scope) for scope in scopes))
    assert len([line for line in caplog.messages if "still wanted" in line]) == 1
