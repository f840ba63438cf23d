"""The channel: stock messages in stock lists, claimed so that no crash, no zombie and no rubbish loses one."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from collections.abc import Generator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import redis
from kombu.connection import Connection
from kombu.entity import Exchange, Queue
from redis import Redis

from snakepit_bridge.delivery.keys import SEPARATOR, DeliveryKeys
from tests.harness.broker import LEASE_S, OURS, QUEUE, STOCK, Consumer, channel, dead, held, put, take
from tests.harness.servers import await_log_written
from tests.harness.waiting import PATIENCE_S, wait_until
from workers.broker import Channel, Transport
from workers.dev.redis_server import EmbeddedRedis

PREFIX = "team:"


@pytest.fixture
def client(redis_url: str) -> Generator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def waiting(client: Redis, name: str = QUEUE) -> list[dict[str, Any]]:
    found: Any = client.lrange(name, 0, -1)
    return [json.loads(raw) for raw in found]


def test_kombu_makes_our_parts() -> None:
    assert Transport.Channel is Channel


# ---------------------------------------------------------------- messages and lists are kombu's own


@pytest.mark.keeps_keys(f"{PREFIX}.*")
@pytest.mark.parametrize("prefix", ["", PREFIX])
@pytest.mark.parametrize(("sender", "taker"), [(OURS, STOCK), (STOCK, OURS)])
def test_a_stock_process_sends_and_takes_the_same_messages(
    sender: str, taker: str, prefix: str, redis_url: str, client: Redis
) -> None:
    with channel(redis_url, sender, global_keyprefix=prefix) as sending:
        put(sending, {"question": "why? ünïcode"}, headers={"id": "7"}, priority=3)
        assert client.llen(f"{prefix}{QUEUE}{SEPARATOR}3") == 1
    with channel(redis_url, taker, global_keyprefix=prefix) as taking:
        message = take(taking)
        assert (message.payload, message.headers) == ({"question": "why? ünïcode"}, {"id": "7"})
        message.ack()
        assert taking.basic_get(QUEUE) is None


@pytest.mark.keeps_keys(f"{PREFIX}.*")
def test_a_prefix_is_on_every_key(redis_url: str, client: Redis) -> None:
    with channel(redis_url, global_keyprefix=PREFIX) as ours:
        put(ours, 1)
        put(ours, 2)
        put(ours, 3, headers={"eta": (datetime.now(UTC) + timedelta(hours=1)).isoformat()})
        consumer = Consumer(ours, room=3)
        assert consumer.drain() == [1, 2]
        keys: Any = client.keys("*")
        assert all(key.startswith(PREFIX.encode()) for key in keys), keys
        assert len(held(client, DeliveryKeys.of("dspex", PREFIX))) == 2
        for message in consumer.messages:
            message.ack()
        assert client.zcard(f"{PREFIX}dspex:delivery:delayed") == 1


def test_priorities_are_served_in_their_order_and_each_first_come_first_served(redis_url: str) -> None:
    with channel(redis_url) as ours:
        for n, priority in enumerate((9, 0, 5, 3, 0)):
            put(ours, [priority, n], priority=priority)
        consumer = Consumer(ours)
        assert consumer.drain() == [[9, 0], [5, 2], [3, 3], [0, 1], [0, 4]]


@pytest.mark.keeps_keys("other")
def test_several_queues_are_served_in_turn(redis_url: str) -> None:
    with channel(redis_url, claim_limit=2) as ours:
        for n in range(4):
            put(ours, n)
            put(ours, n + 10, queue="other")
        consumer = Consumer(ours, QUEUE, "other")
        assert sorted(consumer.drain()) == [0, 1, 2, 3, 10, 11, 12, 13]
        assert {*consumer.bodies[:4]} == {0, 1, 10, 11}, "no queue waits for the other one to be empty"


# ---------------------------------------------------------------- claims


def test_a_claim_takes_and_records_in_one_step_and_has_a_number_of_its_own(redis_url: str, client: Redis) -> None:
    with channel(redis_url) as ours:
        put(ours, "first")
        message = take(ours)
        (tag,) = held(client)
        assert message.delivery_tag == message.properties["delivery_tag"] == tag
        place, _, raw = held(client)[tag].partition(b"\n")
        assert (place, json.loads(base64.b64decode(json.loads(raw)["body"]))) == (QUEUE.encode(), "first")
        message.reject(requeue=True)
        again = take(ours)
        assert again.delivery_tag != tag
        assert held(client).keys() == {again.delivery_tag}
        assert again.delivery_info["redelivered"]
        assert again.payload == "first"


def test_many_messages_are_claimed_in_one_round_trip_but_no_more_than_there_is_room_for(
    redis_url: str, client: Redis
) -> None:
    with channel(redis_url) as ours:
        for n in range(50):
            put(ours, n)
        consumer = Consumer(ours, room=20)
        ours.connection.drain_events(ours.connection, timeout=PATIENCE_S)
        assert consumer.bodies == list(range(20)), "by the one claim that was answered"
        assert client.llen(QUEUE) == 30
        assert len(held(client)) == 20
        for message in consumer.messages[:5]:
            message.ack()
        assert consumer.drain() == list(range(25))
        for message in consumer.messages[5:]:
            message.reject(requeue=False)


def test_workers_share_what_waits_instead_of_taking_all_that_they_have_room_for(redis_url: str) -> None:
    with channel(redis_url) as ours, channel(redis_url, delivery_key="dspex:delivery", lease=LEASE_S + 0.01) as theirs:
        first, second = Consumer(ours), Consumer(theirs)
        assert [*first.drain(), *second.drain()] == []
        for n in range(10):
            put(ours, n)
        ours.connection.drain_events(ours.connection, timeout=PATIENCE_S)
        assert len(first.messages) == 5, "half of what waits, since there are two"


def test_a_consumer_without_acknowledgements_leaves_no_record(redis_url: str, client: Redis) -> None:
    with channel(redis_url) as ours:
        put(ours, 1)
        consumer = Consumer(ours, no_ack=True)
        assert consumer.drain() == [1]
        put(ours, 2)
        assert take(ours, no_ack=True).payload == 2
        assert held(client) == {}
        assert client.hgetall(DeliveryKeys().workers) == {}


def test_an_acknowledgement_ends_its_claim_alone(redis_url: str, client: Redis) -> None:
    with channel(redis_url) as ours:
        for n in range(3):
            put(ours, n)
        first, second, third = (take(ours) for _ in range(3))
        second.ack()
        assert set(held(client)) == {first.delivery_tag, third.delivery_tag}
        first.ack()
        third.ack()
        assert held(client) == {}
        assert ours.basic_get(QUEUE) is None


def test_a_zombies_late_acknowledgement_does_not_touch_the_new_owners_claim(redis_url: str, client: Redis) -> None:
    with channel(redis_url) as zombie:
        put(zombie, "precious")
        claimed = take(zombie)
        # What the reaper does with a worker that it takes for dead.
        record = held(client)[claimed.delivery_tag]
        client.hdel(DeliveryKeys().held(zombie.leases.worker), claimed.delivery_tag)
        client.rpush(QUEUE, record.partition(b"\n")[2])
        with channel(redis_url, lease=LEASE_S + 0.01) as owner:
            owned = take(owner)
            claimed.ack()
            assert held(client).keys() == {owned.delivery_tag}, "stock kombu's tag is the same for both"
            owned.ack()


def test_a_rejected_message_goes_to_the_end_of_its_queue_or_to_the_dead_list(redis_url: str, client: Redis) -> None:
    with channel(redis_url) as ours:
        put(ours, "wanted later", headers={"task": "t", "id": "7"}, priority=6)
        put(ours, "other", priority=6)
        take(ours).reject(requeue=True)
        other, last = take(ours), take(ours)
        assert [other.payload, last.payload] == ["other", "wanted later"]
        last.reject(requeue=False)
        (entry,) = dead(client)
        assert (entry["reason"], entry["task"], entry["task_id"]) == ("rejected", "t", "7")
        assert entry["list"] == f"{QUEUE}{SEPARATOR}6"


def test_an_acknowledgement_makes_room_for_the_next_message(redis_url: str) -> None:
    with channel(redis_url) as ours:
        ours.basic_qos(0, 1, False)
        put(ours, 1)
        assert ours.qos.free_slots(32) == 1
        message = take(ours)
        assert ours.qos.free_slots(32) == 0
        message.ack()
        assert ours.qos.free_slots(32) == 1


def test_what_is_open_when_a_channel_closes_goes_back_to_the_front(redis_url: str, client: Redis) -> None:
    with channel(redis_url) as ours:
        for body in ("done", "open", "later"):
            put(ours, body)
        take(ours).ack()
        take(ours)
    wait_until(lambda: held(client) == {}, "the open message to be given back")
    with channel(redis_url) as again:
        message = take(again)
        assert (message.payload, message.delivery_info["redelivered"]) == ("open", True)
        assert message.properties["deliveries"] == 1, "nobody died"
        message.ack()
        take(again).ack()


# ---------------------------------------------------------------- messages that can't be run now, or ever


@pytest.mark.parametrize(
    "raw",
    [b"\xff\x00", b"not json", b"[]", b"null", b"{}", b'{"properties": {}}', b"[" * 100_000,
     b'{"properties": {"delivery_info": {}}, "headers": []}',
     json.dumps({"body": "%%%", "content-type": "application/json", "content-encoding": "utf-8", "headers": {},
                 "properties": {"delivery_info": {}, "body_encoding": "base64"}}).encode(),
     json.dumps({"body": "e30", "content-type": "application/json", "content-encoding": "utf-8",
                 "headers": {"id": "7", "task": "t"},
                 "properties": {"delivery_info": {}, "body_encoding": "utf-8"}}).encode(),
     json.dumps({"body": "e3", "headers": {}, "properties": {"delivery_info": {}, "body_encoding": "rot13"}}).encode(),
    ],
)  # fmt: skip
@pytest.mark.parametrize("get", [True, False])
def test_what_cannot_be_read_goes_to_the_dead_list_and_the_next_message_comes(
    get: bool, raw: bytes, redis_url: str, client: Redis
) -> None:
    with channel(redis_url) as ours:
        client.lpush(QUEUE, raw)
        put(ours, "good")
        if get:
            assert take(ours).payload == "good"
        else:
            assert Consumer(ours).drain() == ["good"]
        (entry,) = wait_until(lambda: dead(client), "the dead letter")
        assert entry["reason"] == "unreadable"
        assert entry["message"] == raw
        assert entry["error"]
        assert len(held(client)) == 1


def test_a_message_that_its_consumer_chokes_on_is_given_up_and_the_next_one_comes(
    redis_url: str, client: Redis
) -> None:
    with channel(redis_url) as ours:
        for body in ("poison", "good"):
            put(ours, body)
        consumer, consumers = Consumer(ours), ours.claimer._consumers

        def choke(message: Any) -> None:
            if message.payload == "poison":
                raise KeyError("id")
            consumer.messages.append(message)

        consumers[QUEUE] = (choke, True)
        assert consumer.drain() == ["good"]
        (entry,) = dead(client)
        assert (entry["reason"], entry["error"]) == ("unreadable", "KeyError: 'id'")
        assert ours.qos.free_slots(1) == 1


def later(seconds: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=seconds)).isoformat()


def test_a_message_that_is_due_later_takes_no_room_and_comes_back_when_it_is_due(redis_url: str, client: Redis) -> None:
    with channel(redis_url) as ours:
        put(ours, "later", headers={"eta": later(1.4)}, priority=3)
        put(ours, "now")
        consumer = Consumer(ours, room=1)
        assert consumer.drain(0.1) == ["now"]
        consumer.messages[0].ack()
        assert consumer.drain(0.1) == ["now"]
        assert ours.qos.free_slots(1) == 1
        assert client.zcard(DeliveryKeys().delayed) == 1
        assert held(client) == {}
        due = time.time() + 1.4
        wait_until(lambda: consumer.drain(0.05) == ["now", "later"], "the delayed message")
        assert time.time() <= due + 2
        assert client.zcard(DeliveryKeys().delayed) == 0


@pytest.mark.parametrize("eta", [-5.0, 0.2, "tomorrow", "2030-01-01T00:00:00", 7])
def test_a_message_that_is_due_soon_or_says_nothing_sensible_is_celerys(eta: Any, redis_url: str) -> None:
    eta = later(eta) if isinstance(eta, float) else eta
    with channel(redis_url) as ours:
        put(ours, "celery's", headers={"eta": eta})
        assert take(ours).payload == "celery's"


def test_a_full_broker_refuses_and_loses_nothing() -> None:
    with EmbeddedRedis.start() as server, channel(server.url) as ours, Redis.from_url(server.url) as client:
        for n in range(5):
            put(ours, n)
        consumer = Consumer(ours)
        client.config_set("maxmemory", 1)
        assert consumer.drain(0.5) == []
        assert client.llen(QUEUE) == 5
        assert held(client) == {}
        client.config_set("maxmemory", 0)
        assert consumer.drain(2) == [0, 1, 2, 3, 4]


# ---------------------------------------------------------------- a broker that goes away


@pytest.fixture
def mortal() -> Generator[EmbeddedRedis]:
    with EmbeddedRedis.start(aof=True) as server:
        yield server


def test_a_broker_that_restarts_finds_the_claim_and_takes_the_acknowledgement_of_before(mortal: EmbeddedRedis) -> None:
    with channel(mortal.url) as ours, Redis.from_url(mortal.url) as client:
        put(ours, 1)
        put(ours, 2)
        first, second = take(ours), take(ours)
        mortal.restart()
        wait_until(lambda: _set(lambda: held(client)) == {first.delivery_tag, second.delivery_tag}, "the claims")
        first.ack()
        wait_until(lambda: _set(lambda: held(client)) == {second.delivery_tag}, "the first to be acknowledged")


def test_an_acknowledgement_while_the_broker_is_away_is_told_later(mortal: EmbeddedRedis) -> None:
    with channel(mortal.url) as ours:
        put(ours, 1)
        message = take(ours)
        await_log_written(mortal.url)
        mortal.kill()
        message.ack()
        mortal.restart()
        with Redis.from_url(mortal.url) as client:
            wait_until(lambda: _set(lambda: held(client)) == set(), "the acknowledgement")
            assert client.llen(QUEUE) == 0


def _set(found: Any) -> set[str] | None:
    try:
        return set(found())
    except redis.RedisError:
        return None


def test_a_consumer_meets_a_lost_broker_as_a_connection_error(mortal: EmbeddedRedis) -> None:
    connection: Any = Connection(mortal.url, transport=OURS, transport_options={"lease": LEASE_S})
    opened: Any = connection.channel()
    consumer = Consumer(opened)
    put(opened, 1)
    assert consumer.drain() == [1]
    gossip: Any = connection.channel()
    Queue("celeryev.1", Exchange("celeryev.x", type="fanout"), auto_delete=True)(gossip).declare()
    assert gossip.client.ping()
    mortal.kill()
    with pytest.raises(connection.connection_errors):
        wait_until(lambda: connection.drain_events(timeout=1), "the loss to be noticed")
    # As Celery's gossip does it, which fails on what comes from a close without a connection.
    gossip.close()
    assert gossip.closed
    # As Celery's worker does it; stock kombu 5.7.0 ends in an AttributeError here.
    connection.collect(0.1)
    connection.release()


def test_a_broker_that_stands_still_for_several_leases_costs_nobody_a_claim() -> None:
    with EmbeddedRedis.start() as server, channel(server.url) as ours, channel(server.url, lease=0.51) as other:
        put(ours, 1)
        message = take(ours)
        watching = Consumer(other)
        assert watching.drain(0.1) == []
        os.kill(server.pid, signal.SIGSTOP)
        stopped = time.monotonic()
        try:
            wait_until(lambda: time.monotonic() - stopped > 4 * LEASE_S, "four leases to pass", timeout_s=30)
        finally:
            os.kill(server.pid, signal.SIGCONT)
        assert watching.drain(2 * LEASE_S) == [], "nobody else gets it"
        with Redis.from_url(server.url) as client:
            assert held(client).keys() == {message.delivery_tag}
            message.ack()
            assert held(client) == {}


# ---------------------------------------------------------------- what it costs


def test_a_channel_keeps_its_client_until_its_pool_goes(redis_url: str) -> None:
    with channel(redis_url) as ours:
        kept = ours._create_client()
        assert ours._create_client() is kept
        assert ours.client is not kept
        ours._disconnect_pools()
        put(ours, 1)
        take(ours).ack()
        assert ours._create_client() is not kept


def test_channels_share_no_client(redis_url: str) -> None:
    with channel(redis_url) as first, channel(redis_url) as other:
        assert first._create_client() is not other._create_client()
