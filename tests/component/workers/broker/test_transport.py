"""The transport in an event loop, as Celery's worker runs it: claims and acknowledgements share their round trips."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from typing import Any

import pytest
from kombu.asynchronous import Hub
from kombu.connection import Connection
from redis import Redis

from tests.harness.broker import LEASE_S, OURS, Consumer, channel, held, put
from tests.harness.waiting import Stopwatch
from workers.broker import Transport


class Loop:
    """A connection whose transport is polled by a kombu hub."""

    def __init__(self, url: str, **options: Any) -> None:
        self.hub = Hub()
        self.connection: Any = Connection(url, transport=OURS, transport_options={"lease": LEASE_S, **options})
        self.connection.connect()
        self.transport: Transport = self.connection.transport
        self.transport.register_with_event_loop(self.connection.connection, self.hub)
        self.channel: Any = self.connection.channel()

    def turn_until(self, condition: Callable[[], bool], seconds: float = 15) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "the loop turned in vain"
            self.hub.run_once()

    def turn_for(self, seconds: float) -> None:
        until = time.monotonic() + seconds
        self.hub.call_later(seconds, lambda: None)
        while time.monotonic() < until:
            self.hub.run_once()


@pytest.fixture
def client(redis_url: str) -> Generator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def loop(redis_url: str) -> Generator[Loop]:
    turning = Loop(redis_url)
    yield turning
    turning.connection.release()
    turning.hub.close()


def scripts(client: Redis) -> int:
    found: Any = client.info("commandstats")
    return found.get("cmdstat_evalsha", {"calls": 0})["calls"]


def test_a_message_that_arrives_while_the_loop_waits_is_given_out_at_once(loop: Loop, redis_url: str) -> None:
    consumer = Consumer(loop.channel)
    loop.turn_for(0.2)
    with channel(redis_url, "redis") as stock:
        for n in range(5):
            put(stock, n)
            sent = Stopwatch()
            loop.turn_until(lambda n=n: len(consumer.messages) == n + 1)
            assert sent.elapsed_s < 0.5, "long before a look of its own would have found it"


def test_acknowledgements_of_one_turn_travel_together_and_with_the_next_claim(loop: Loop, client: Redis) -> None:
    for n in range(60):
        put(loop.channel, n)
    consumer = Consumer(loop.channel, room=20)
    loop.turn_until(lambda: len(consumer.messages) == 20)
    before = scripts(client)
    for message in consumer.messages:
        message.ack()
    loop.turn_until(lambda: len(consumer.messages) == 40)
    ran = scripts(client) - before
    assert ran <= 1 + LEASE_S * 10, "one script ended twenty claims and made twenty; the rest are the keeper's beats"
    assert len(held(client)) == 20
    for message in consumer.messages[20:]:
        message.ack()
    loop.turn_until(lambda: len(consumer.messages) == 60)


def test_an_acknowledgement_is_told_within_milliseconds_though_there_is_nothing_to_claim(
    loop: Loop, client: Redis
) -> None:
    put(loop.channel, 1)
    consumer = Consumer(loop.channel)
    loop.turn_until(lambda: len(consumer.messages) == 1)
    loop.turn_for(0.1)
    assert len(held(client)) == 1
    consumer.messages[0].ack()
    acked = Stopwatch()
    loop.turn_until(lambda: held(client) == {})
    assert acked.elapsed_s < 0.3
    loop.turn_until(lambda: not loop.channel.leases.unsettled)


def test_what_was_acknowledged_before_a_close_is_told_by_the_close(loop: Loop, client: Redis) -> None:
    for n in range(3):
        put(loop.channel, n)
    consumer = Consumer(loop.channel)
    loop.turn_until(lambda: len(consumer.messages) == 3)
    consumer.messages[0].ack()
    consumer.messages[1].ack()
    # The loop doesn't turn again.
    loop.connection.release()
    assert held(client) == {}
    assert client.llen("predictions") == 1


def test_a_claim_that_is_answered_while_its_channel_closes_goes_back(loop: Loop, client: Redis) -> None:
    consumer = Consumer(loop.channel)
    put(loop.channel, 1)
    loop.transport.cycle.on_poll_start()  # sends the claim, and nobody reads the answer
    loop.connection.release()
    assert consumer.messages == []
    assert held(client) == {}
    assert client.llen("predictions") == 1


def test_no_room_means_no_claim_and_confirmations_are_still_read(loop: Loop, client: Redis) -> None:
    for n in range(3):
        put(loop.channel, n)
    consumer = Consumer(loop.channel, room=1)
    loop.turn_for(0.3)
    assert consumer.bodies == [0]
    consumer.messages[0].ack()
    loop.turn_until(lambda: len(consumer.messages) == 2)
    loop.channel.basic_qos(0, 1)
    loop.turn_until(lambda: not loop.channel.leases.unsettled)
    consumer.messages[1].ack()


def test_the_loop_is_left_when_the_connection_closes(loop: Loop) -> None:
    Consumer(loop.channel)
    loop.turn_for(0.05)
    assert loop.hub.on_tick
    loop.connection.release()
    assert not loop.hub.on_tick
    assert not loop.hub.readers or set(loop.hub.readers) == {loop.hub._waker.fileno()}


def test_a_stale_delayed_message_wakes_the_loop_when_it_is_due(loop: Loop, client: Redis) -> None:
    consumer = Consumer(loop.channel)
    loop.turn_for(0.1)
    due = time.time() + 0.4
    envelope = b'{"body": "MQ==", "content-type": "application/json", "content-encoding": "utf-8", "headers": {}, '
    envelope += b'"properties": {"body_encoding": "base64", "delivery_info": {}}}'
    client.zadd("dspex:delivery:delayed", {b"predictions\n" + envelope: due * 1000})
    loop.turn_until(lambda: bool(consumer.messages))
    assert due <= time.time() < due + 1.2


def test_scripts_that_were_flushed_are_loaded_anew(loop: Loop, client: Redis) -> None:
    consumer = Consumer(loop.channel)
    loop.turn_for(0.1)
    client.script_flush()
    put(loop.channel, 1)
    with pytest.raises(loop.connection.connection_errors):
        loop.turn_until(lambda: bool(consumer.messages))
    assert client.llen("predictions") == 1
