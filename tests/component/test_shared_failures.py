"""Whatever many await together, each of them gets an error of its own when it fails."""

from __future__ import annotations

import asyncio

import pytest
from dspy.lm15 import LM15Error, Response, ServerError

from snakepit_bridge.exceptions import (
    LMUnavailableError,
    StoreUnavailableError,
)
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.pubsub import Subscription
from snakepit_bridge.snapshots.redis_watch import RedisWatch
from tasks.response_cache.single_flight import AnswerCache
from tasks.response_cache.store import AnswerStore
from tests.harness.waiting import eventually
from tests.unit.tasks.callers import call, prediction
from tests.unit.test_shared_failures import assert_each_its_own, together

MANY = 20


@pytest.mark.parametrize(
    "failure", [ServerError("broken"), LMUnavailableError("m", "down", "text")], ids=["lm15", "ours"]
)
async def test_the_answer_of_one_who_asks_for_all(redis_url: str, failure: Exception) -> None:
    connection = RedisConnection(redis_url)
    signals = Subscription(connection)
    cache = AnswerCache(AnswerStore(connection, namespace="dspex"), signals)
    calls = 0

    async def ask() -> Response:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0.05)
        raise failure

    raised = await together(lambda: cache.get_or_call(prediction(), call(), ask))
    assert calls == 1
    assert isinstance(failure, LM15Error | LMUnavailableError)
    assert_each_its_own(raised, type(failure))
    await connection.aclose()


async def test_a_watch_that_breaks_before_it_has_confirmed(redis_url: str) -> None:
    connection = RedisConnection(redis_url)
    async with RedisWatch(connection, lambda session: f"channel:{session}") as watch:
        watch._link._reader.cancel()  # so that nothing is confirmed
        asking = asyncio.ensure_future(together(lambda: watch.add(["s"])))

        async def all_wait() -> bool:
            return any(len(confirming._callbacks or ()) == MANY for confirming in watch._link._confirmations.values())  # type: ignore[attr-defined]

        await eventually(all_wait, "all to wait for the confirmation")
        watch._link._fail(StoreUnavailableError(connection.url, "it was cut"))
        assert_each_its_own(await asking, StoreUnavailableError)
    await connection.aclose()
