"""A handle waits, looks and cancels; the worker's part is played by what Celery's backend stores."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import dspy
import pytest
from celery import chain
from redis import Redis

from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.client.fleet_prediction import FleetPrediction
from snakepit_bridge.exceptions import PredictionCancelledError, PredictionTimeoutError, PredictionUnknownError
from snakepit_bridge.process.home_loop import get_home_loop, run_on_home_loop
from snakepit_bridge.protocol.messages import Result
from tests.harness.stage import fresh
from tests.harness.waiting import wait_until, within
from tests.unit.protocol.test_provenance import SAMPLE


@pytest.fixture
def fleet(redis_url: str) -> Fleet:
    return Fleet(redis_url, wait_s=5)


def finish(fleet: Fleet, handle: Handle, **outputs: object) -> None:
    fleet.app.backend.store_result(handle.id, Result(outputs, SAMPLE.encode()).encode(), "SUCCESS")


def test_a_handle_of_nothing_is_pending(fleet: Fleet) -> None:
    handle = fleet.handle("never-submitted")
    assert (handle.status, handle.ready()) == ("PENDING", False)
    assert repr(handle) == "Handle('never-submitted')"


def test_a_result_that_is_there_already_is_given_at_once(fleet: Fleet) -> None:
    handle = fleet.handle("task")
    finish(fleet, handle, answer="42")
    with within(1):
        prediction = handle.get()
        assert handle.get(timeout=0).answer == "42", "no time is enough for what is there"
    assert isinstance(prediction, FleetPrediction)
    assert isinstance(prediction, dspy.Prediction)
    assert (prediction.answer, prediction.provenance) == ("42", SAMPLE)
    assert prediction.get_lm_usage() == SAMPLE.usage
    assert (handle.status, handle.ready()) == ("SUCCESS", True)


def test_the_provenance_stands_beside_the_outputs_and_not_among_them(fleet: Fleet) -> None:
    handle = fleet.handle("task")
    finish(fleet, handle, answer="42")
    assert handle.get().toDict() == {"answer": "42"}
    assert list(handle.get().keys()) == ["answer"]


def test_a_later_step_of_a_chain_is_known_before_it_is_sent(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snakepit_bridge.client.handle._FIRST_WAIT_S", 0.05)
    steps = [fleet.signature("qa", {"question": "why?"}), *(fleet.signature("qa", take={"question": "answer"}),) * 2]
    last = chain(*steps).apply_async()
    for task_id in (last.id, last.parent.id):
        with pytest.raises(PredictionTimeoutError, match="It waits in queue 'predictions'"):
            fleet.handle(task_id).get(0.1)


async def test_a_stream_of_nothing_ends_as_a_wait_for_it_does(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snakepit_bridge.client.handle._FIRST_WAIT_S", 0.05)
    with pytest.raises(PredictionUnknownError, match="never-submitted"):
        [chunk async for chunk in fleet.handle("never-submitted").stream()]


def test_a_result_that_comes_while_somebody_waits_wakes_him(fleet: Fleet) -> None:
    handle = fleet.handle("task")
    threading.Timer(0.1, finish, (fleet, handle), {"answer": "42"}).start()
    with within(2):
        assert handle.get().answer == "42"


def test_the_wait_is_bounded_by_the_call_or_by_the_fleet(redis_url: str) -> None:
    handle = Fleet(redis_url, wait_s=0.1).handle("task")
    with within(1), pytest.raises(PredictionTimeoutError, match=r"Prediction task had no result after 0\.1 s"):
        handle.get()
    with within(1), pytest.raises(PredictionTimeoutError, match=r"after 0\.05 s.*dspex-fleet status"):
        handle.get(0.05)
    with pytest.raises(TimeoutError):
        handle.get(0)


async def test_a_handle_is_awaited_on_any_loop(fleet: Fleet) -> None:
    handle = fleet.handle("task")
    finish(fleet, handle, answer="42")
    assert asyncio.get_running_loop() is not get_home_loop()
    assert (await handle).answer == "42"

    async def on_the_home_loop() -> FleetPrediction:
        return await handle

    assert (await run_on_home_loop(on_the_home_loop())).answer == "42"


async def test_an_awaiter_that_is_cancelled_leaves_the_prediction_alone(fleet: Fleet) -> None:
    handle = fleet.handle("task")

    async def wait() -> FleetPrediction:
        return await handle

    waiting = asyncio.create_task(wait())
    await asyncio.sleep(0.05)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    finish(fleet, handle, answer="42")
    assert (await handle).answer == "42"


def test_many_threads_wait_for_one_prediction(fleet: Fleet) -> None:
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(fleet.handle("task").get, 5) for _ in range(8)]
        finish(fleet, fleet.handle("task"), answer="42")
        assert {future.result().answer for future in waiting} == {"42"}


def test_a_cancelled_prediction_ends_for_everybody(fleet: Fleet) -> None:
    handle = fleet.submit("qa", {"question": "why?"})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(fleet.handle(handle.id).get, 5)
        assert handle.cancel()
        with within(2):
            assert isinstance(waiting.exception(), PredictionCancelledError)
    assert (handle.status, handle.ready()) == ("REVOKED", True)
    with pytest.raises(PredictionCancelledError, match=handle.id):
        handle.get()


def test_one_that_has_ended_is_not_cancelled_and_nobody_is_told(fleet: Fleet, redis_url: str) -> None:
    handle = fleet.handle(fresh("task"))
    with told_of_cancellations(redis_url) as messages:
        finish(fleet, handle, answer="42")
        assert not handle.cancel()
        assert messages.get_message(timeout=0.2) is None
    assert handle.get().answer == "42"


def test_a_cancellation_is_told_once_to_the_whole_fleet(fleet: Fleet, redis_url: str) -> None:
    handle = fleet.handle(fresh("task"))
    with told_of_cancellations(redis_url) as messages:
        assert handle.cancel()
        assert handle.cancel(), "it is cancelled, whoever did it"
        message: Any = messages.get_message(timeout=2)
        assert message["data"] == handle.id.encode()
        assert messages.get_message(timeout=0.2) is None


async def test_a_coroutine_cancels_without_blocking_its_loop(fleet: Fleet) -> None:
    handle = fleet.handle(fresh("task"))
    assert await handle.acancel()
    with pytest.raises(PredictionCancelledError):
        await handle


def test_who_waits_on_his_reply_channel_hears_of_a_cancellation_from_elsewhere(redis_url: str) -> None:
    handle = Fleet(redis_url, wait_s=10).submit("qa", {"question": "why?"})
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(handle.get)
        wait_until(lambda: subscribed(redis_url, b"dspex:replies:*"), "the subscription")
        assert Fleet(redis_url).handle(handle.id).cancel()
        with within(2):
            assert isinstance(waiting.exception(), PredictionCancelledError)


@contextmanager
def told_of_cancellations(url: str) -> Generator[Any]:
    with Redis.from_url(url) as client, client.pubsub() as messages:
        messages.subscribe("dspex:cancel")
        assert messages.get_message(timeout=2)
        yield messages


def subscribed(url: str, pattern: bytes) -> bool:
    with Redis.from_url(url) as client:
        return bool(client.pubsub_channels(pattern))
