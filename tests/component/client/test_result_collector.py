"""Collecting results: by one subscription, in any order, without a question to Redis while nothing ends."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.result_collector import EndedTask, ForgettableTask, ResultCollector
from snakepit_bridge.exceptions import PayloadLostError, PredictionCancelledError, PredictionUnknownError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import Result
from tests.harness.waiting import PATIENCE_S
from tests.unit.protocol.test_provenance import SAMPLE

INPUTS = {"question": "why?"}


@pytest.fixture
def fleet(redis_url: str) -> Fleet:
    return Fleet(redis_url, wait_s=5)


@pytest.fixture
def collector(fleet: Fleet) -> ResultCollector:
    return ResultCollector(fleet.results, fleet.payloads)


def finish(fleet: Fleet, task_id: str, result: dict[str, Any] | None = None, *, channel: str | None = None) -> None:
    """Store a result and announce it, as a worker does."""
    done = result or Result({"answer": task_id}, SAMPLE.encode()).encode()
    fleet.app.backend.store_result(task_id, done, "SUCCESS")
    with Redis.from_url(fleet.url) as client:
        client.publish(channel or fleet.results.reply_channel, task_id)


def answers(ended: list[EndedTask]) -> list[Any]:
    return sorted(each.ended.result.outputs["answer"] for each in ended if each.ended.result is not None)


def collect(collector: ResultCollector, count: int) -> list[EndedTask]:
    found: list[EndedTask] = []
    while len(found) < count:
        ended = run_blocking(collector.collect(10))
        assert ended, f"only {len(found)} of {count} ended"
        found += ended
    return found


def test_what_ends_is_collected_once_in_any_order(fleet: Fleet, collector: ResultCollector) -> None:
    run_blocking(collector.prepare())
    handles = fleet.submit_batch("qa", [INPUTS] * 5)
    finish(fleet, handles[3].id)  # before anybody watches it
    run_blocking(collector.watch(handles))
    for place in (4, 0):
        finish(fleet, handles[place].id)
    fleet.handle(handles[1].id).cancel()
    ended = collect(collector, 4)
    assert answers(ended) == sorted(handles[place].id for place in (0, 3, 4))
    [cancelled] = [each for each in ended if each.ended.error is not None]
    assert isinstance(cancelled.ended.error, PredictionCancelledError)
    assert run_blocking(collector.collect(0.1)) == []
    run_blocking(collector.aclose())


@pytest.mark.parametrize("is_stored_before", [True, False])
def test_what_is_announced_while_it_is_read_is_collected_once(
    fleet: Fleet, collector: ResultCollector, monkeypatch: pytest.MonkeyPatch, is_stored_before: bool
) -> None:
    run_blocking(collector.prepare())
    handles = fleet.submit_batch("qa", [INPUTS])
    run_blocking(collector.watch(handles))
    send_each, reads = fleet.payloads.connection.send_each, list[int]()

    async def announce_meanwhile(commands: Any) -> Any:
        reads.append(len(commands))
        if len(reads) > 1:
            return await send_each(commands)
        if is_stored_before:
            await asyncio.to_thread(finish, fleet, handles[0].id)
            await asyncio.wait_for(collector._news.wait(), PATIENCE_S)
            return await send_each(commands)
        replies = await send_each(commands)
        await asyncio.to_thread(finish, fleet, handles[0].id)
        await asyncio.wait_for(collector._news.wait(), PATIENCE_S)
        return replies

    monkeypatch.setattr(fleet.payloads.connection, "send_each", announce_meanwhile)
    with Redis.from_url(fleet.url) as client:
        client.publish(fleet.results.reply_channel, handles[0].id)
    assert answers(collect(collector, 1)) == [handles[0].id]
    assert run_blocking(collector.collect(0.1)) == []
    run_blocking(collector.aclose())


def test_nothing_is_asked_while_nothing_ends(fleet: Fleet, collector: ResultCollector) -> None:
    run_blocking(collector.prepare())
    run_blocking(collector.watch(fleet.submit_batch("qa", [INPUTS] * 50)))
    with Redis.from_url(fleet.url) as client:
        before = client.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"]
        assert run_blocking(collector.collect(1.0)) == []
        assert client.info("commandstats").get("cmdstat_get", {"calls": 0})["calls"] == before
    run_blocking(collector.aclose())


def test_what_an_earlier_process_sent_is_found_whether_it_has_ended_or_not(redis_url: str) -> None:
    earlier, later = Fleet(redis_url), Fleet(redis_url)
    keys = ["one", "two"]
    first, second = earlier.submit_batch("qa", [INPUTS] * 2, idempotency_keys=keys)
    finish(earlier, first.id)
    collector = ResultCollector(later.results, later.payloads)
    run_blocking(collector.prepare())
    run_blocking(collector.watch(later.submit_batch("qa", [INPUTS] * 2, idempotency_keys=keys)))
    assert answers(collect(collector, 1)) == [first.id]
    finish(later, second.id, channel=earlier.results.reply_channel)
    assert answers(collect(collector, 1)) == [second.id]
    run_blocking(collector.aclose())


def test_a_result_beside_its_message_is_loaded_or_named_as_lost(fleet: Fleet, collector: ResultCollector) -> None:
    run_blocking(collector.prepare())
    kept, lost = fleet.submit_batch("qa", [INPUTS] * 2)
    run_blocking(collector.watch([kept, lost]))
    large = Result({"answer": "x" * 300_000}, SAMPLE.encode())
    finish(fleet, kept.id, run_blocking(fleet.payloads.encode_result(large, 60)))
    finish(fleet, lost.id, {"v": 1, "payload": f"payload:{'0' * 64}:9"})
    ended = {each.task_id: each for each in collect(collector, 2)}
    result = ended[kept.id].ended.result
    assert result is not None
    assert len(result.outputs["answer"]) == 300_000
    assert ended[kept.id].payload is not None
    assert isinstance(ended[lost.id].ended.error, PayloadLostError)
    run_blocking(collector.forget([ForgettableTask(kept.id, None, ended[kept.id].payload)]))
    with Redis.from_url(fleet.url) as client:
        assert client.keys("dspex:payload:*") == []
    run_blocking(collector.aclose())


def test_a_forgotten_prediction_is_still_known_to_have_ended(fleet: Fleet, collector: ResultCollector) -> None:
    """A worker drops it, should its message be delivered once more."""
    handle = fleet.submit("qa", INPUTS, idempotency_key="key")
    finish(fleet, handle.id)
    run_blocking(collector.forget([ForgettableTask(handle.id, "key"), ForgettableTask("never-stored", "other")]))
    assert handle.ready()
    with pytest.raises(PredictionUnknownError, match="it was forgotten"):
        handle.get()
    assert not handle.cancel()
    with Redis.from_url(fleet.url) as client:
        assert 0 < client.ttl(f"celery-task-meta-{handle.id}") <= 120
        assert client.keys("dspex:{i:*") == []
        assert client.exists("celery-task-meta-never-stored") == 0
