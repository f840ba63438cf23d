"""The claimer: whatever becomes of a consumer, no message is left with nobody."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from kombu.entity import Queue
from redis import Redis

from tests.harness.broker import QUEUE, Consumer, channel, held, put
from tests.harness.waiting import PATIENCE_S, wait_until


@pytest.fixture
def client(redis_url: str) -> Generator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def consume(channel: Any, callback: Any) -> None:
    Queue(QUEUE, exchange="", routing_key=QUEUE)(channel).consume("tag", callback)


def test_a_consumer_that_ends_the_worker_gets_no_more_and_the_rest_goes_back(redis_url: str, client: Redis) -> None:
    with channel(redis_url) as ours:
        for n in range(5):
            put(ours, n)
        got: list[Any] = []

        def stop(message: Any) -> None:
            got.append(message)
            if len(got) == 2:
                raise SystemExit(0)

        consume(ours, stop)
        with pytest.raises(SystemExit):
            ours.connection.drain_events(ours.connection, timeout=PATIENCE_S)
        ours.keeper.flush(5)
        assert held(client).keys() == {message.delivery_tag for message in got}
        assert client.llen(QUEUE) == 3
    assert client.llen(QUEUE) == 5, "what was given out and never acknowledged goes back at the end"


def test_an_error_of_the_connection_is_not_the_messages_fault(redis_url: str, client: Redis) -> None:
    with channel(redis_url) as ours:
        put(ours, 1)

        def fail(_: Any) -> None:
            raise ConnectionResetError("the result backend is away")

        consume(ours, fail)
        with pytest.raises(ConnectionResetError):
            ours.connection.drain_events(ours.connection, timeout=PATIENCE_S)
        assert client.zcard("dspex:delivery:dead") == 0
    wait_until(lambda: client.llen(QUEUE) == 1, "the message to go back")


def test_a_claim_that_is_answered_after_its_consumer_was_cancelled_goes_back(redis_url: str, client: Redis) -> None:
    with channel(redis_url) as ours:
        consumer = Consumer(ours)
        assert consumer.drain(0.05) == []
        put(ours, 1)
        wait_until(lambda: ours.claimer.wire.connection.can_read(0), "the ring")
        ours.claimer.read()
        ours.claimer.flush()  # sends the claim
        ours.basic_cancel(f"tag-{QUEUE}")
        ours.claimer.wire.drain(5)
        ours.keeper.flush(5)
        assert consumer.messages == []
        assert held(client) == {}
        assert client.llen(QUEUE) == 1


def test_it_has_stalled_only_if_it_has_room_and_consumers_and_gets_no_answers(redis_url: str) -> None:
    with channel(redis_url) as ours:
        consumer = Consumer(ours, room=1)
        put(ours, 1)
        assert consumer.drain(0.05) == [1]
        assert ours.stalled_lists(0) == [], "no room"
        consumer.messages[0].ack()
        ours.claimer.answered_at -= 60
        assert ours.stalled_lists(30) == [], "it had no room a moment ago"
        ours.claimer.last_full_at -= 60
        assert ours.stalled_lists(30)[-1] == QUEUE, "the list of the least urgent"
        assert ours.stalled_lists(90) == []
        ours.basic_cancel(f"tag-{QUEUE}")
        assert ours.stalled_lists(30) == []


@pytest.mark.keeps_keys("other")
def test_of_several_queues_each_is_claimed_from_for_its_own_consumer(redis_url: str, client: Redis) -> None:
    with channel(redis_url) as ours:
        put(ours, "p")
        put(ours, "o", queue="other")
        recorded, unrecorded = Consumer(ours, QUEUE), Consumer(ours, "other", no_ack=True)
        recorded.drain(0.1)
        assert (recorded.bodies, unrecorded.bodies) == (["p"], ["o"])
        assert len(held(client)) == 1
