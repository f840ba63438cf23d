"""QoS: what goes back when a channel closes depends on who will still acknowledge it."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from celery.worker import state
from redis import Redis

from tests.harness.broker import LEASE_S, channel, held, put, take
from tests.harness.servers import await_log_written
from tests.harness.waiting import Stopwatch, wait_until
from workers.dev.redis_server import EmbeddedRedis


class Running:
    """A request that Celery's pool is running."""

    def __init__(self, message: Any) -> None:
        self.message = message


@pytest.fixture
def client(redis_url: str) -> Generator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def running(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    found: list[Any] = []
    monkeypatch.setattr(state, "active_requests", found)
    return found


def test_a_lost_connection_leaves_what_runs_and_gives_back_the_rest(
    redis_url: str, client: Redis, running: list[Any]
) -> None:
    with channel(redis_url) as ours:
        for body in ("runs", "waits"):
            put(ours, body)
        runs, waits = take(ours), take(ours)
        running.append(Running(runs))
    assert held(client).keys() == {runs.delivery_tag}
    assert waits.delivery_tag not in held(client)
    assert client.llen("predictions") == 1
    # The task ends on a channel that was closed long ago.
    runs.ack()
    wait_until(lambda: held(client) == {}, "the acknowledgement")
    assert client.llen("predictions") == 1


@pytest.mark.parametrize("why", ["should_stop", "should_terminate"])
@pytest.mark.parametrize("code", [0, 1, True])
def test_a_worker_that_stops_gives_everything_back(
    why: str, code: Any, redis_url: str, client: Redis, running: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state, why, code)
    with channel(redis_url) as ours:
        put(ours, "runs")
        running.append(Running(take(ours)))
    assert held(client) == {}
    assert client.llen("predictions") == 1


@pytest.mark.parametrize("requeue", [True, False])
def test_a_task_whose_process_died_counts_however_celery_rejects_it(
    requeue: bool, redis_url: str, client: Redis
) -> None:
    with channel(redis_url, max_deliveries=2) as ours:
        put(ours, "deadly", headers={"task": "t", "id": "7"})
        for count in (1, 2):
            message = take(ours)
            assert message.properties["deliveries"] == count
            ours.lost[message.delivery_tag] = "SIGKILL"
            message.reject(requeue=requeue)
        assert ours.basic_get("predictions") is None
        assert ours.lost == {}
    assert client.zcard("dspex:delivery:dead") == 1


def test_what_outlived_a_lost_connection_takes_its_place_until_it_ends(redis_url: str, running: list[Any]) -> None:
    with channel(redis_url) as ours:
        for n in range(3):
            put(ours, n)
        messages = [take(ours) for _ in range(2)]
        running.extend(Running(message) for message in messages)
    with channel(redis_url) as again:
        again.basic_qos(0, 3)
        assert again.qos.free_slots(32) == 1
        new = take(again)
        assert again.qos.free_slots(32) == 0
        messages[0].ack()
        assert again.qos.free_slots(32) == 1
        messages[1].ack()
        new.ack()
        assert again.qos.free_slots(32) == 3


def test_nobody_waits_for_a_broker_that_is_away_when_tasks_end_that_outlived_their_channel(
    running: list[Any],
) -> None:
    with EmbeddedRedis.start(aof=True) as server:
        with channel(server.url) as ours:
            for n in range(20):
                put(ours, n)
            messages = [take(ours) for _ in range(20)]
            running.extend(Running(message) for message in messages)
        await_log_written(server.url)
        server.kill()
        started = Stopwatch()
        for message in messages:
            message.ack()
        assert started.elapsed_s < 1
        server.restart()
        with Redis.from_url(server.url) as client:
            wait_until(lambda: held(client) == {}, "the acknowledgements")
            assert client.llen("predictions") == 0


def test_there_is_no_more_room_than_was_asked_for(redis_url: str) -> None:
    with channel(redis_url) as ours:
        assert ours.qos.free_slots(32) == 32, "without a limit, one round trip's worth"
        assert ours.qos.free_slots(10**6) == 1_000
        ours.basic_qos(0, 5)
        assert (ours.qos.free_slots(32), ours.qos.free_slots(3)) == (5, 3)
        ours.qos.can_consume = lambda: False  # as Celery does with worker_disable_prefetch
        assert ours.qos.free_slots(32) == 0


def test_nothing_is_given_back_twice(redis_url: str, client: Redis) -> None:
    with channel(redis_url, lease=LEASE_S) as ours:
        put(ours, 1)
        take(ours)
        ours.qos.restore_unacked()
        ours.qos.restore_unacked()
        ours.qos.restore_unacked_once()
    assert client.llen("predictions") == 1
