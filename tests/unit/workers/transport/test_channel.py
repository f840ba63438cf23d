"""The transport: on the wire it is kombu's own, record for record, so that stock processes and ours share a broker."""

from __future__ import annotations

import json
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import pytest
import redis
from kombu import Connection
from kombu.transport import redis as stock
from redis import Redis

from workers.embedded import EmbeddedRedis
from workers.transport import Channel, Transport

OURS, STOCK = "workers.transport:Transport", "redis"
QUEUE = "predictions"
PREFIX = "team:"


@contextmanager
def channel(url: str, transport: str = OURS, **options: Any) -> Generator[Any]:
    """A channel to the broker whose queue is there; left over messages stay recorded, as when a process dies."""
    connection = Connection(url, transport=transport, transport_options=options)
    opened: Any = connection.channel()
    try:
        opened.queue_declare(QUEUE)
        yield opened
    finally:
        opened.qos._delivered.clear()
        opened.qos._delivered.restored = True
        connection.release()


def put(channel: Any, body: object, **properties: Any) -> None:
    message = channel.prepare_message(
        json.dumps(body), content_type="application/json", content_encoding="utf-8", **properties
    )
    channel.basic_publish(message, exchange="", routing_key=QUEUE)


def take(channel: Any) -> Any:
    message = channel.basic_get(QUEUE)
    assert message is not None, "the queue is empty"
    return message


def recorded(client: Redis, prefix: str = "") -> dict[str, Any]:
    """What is delivered and not acknowledged, by delivery tag; index and hash must tell of the same ones."""
    found: Any = client.hgetall(f"{prefix}unacked")
    index: Any = client.zrange(f"{prefix}unacked_index", 0, -1)
    assert set(found) == set(index)
    return {tag.decode(): record for tag, record in found.items()}


@pytest.fixture
def client(redis_url: str) -> Generator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


def test_kombu_makes_our_parts() -> None:
    assert Transport.Channel is Channel


@pytest.mark.keeps_keys(f"{PREFIX}.*")
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_a_record_is_byte_for_byte_kombus_own(prefix: str, redis_url: str, client: Redis) -> None:
    with channel(redis_url, global_keyprefix=prefix) as ours:
        put(ours, {"question": "why? ünïcode"}, headers={"id": "7"}, priority=0)
        message = take(ours)
        mine, (score,) = recorded(client, prefix), scores(client, prefix)
        client.delete(f"{prefix}unacked", f"{prefix}unacked_index")

        stock.QoS.append(ours.qos, message, message.delivery_tag)
        assert recorded(client, prefix) == mine
        assert list(mine) == [message.delivery_tag]
        # The stock one was written later, by the same clock.
        assert score <= scores(client, prefix)[0] <= score + 60


def scores(client: Redis, prefix: str) -> list[float]:
    found: Any = client.zrange(f"{prefix}unacked_index", 0, -1, withscores=True)
    return [score for _, score in found]


@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_an_acknowledgement_strikes_its_record_alone(prefix: str, redis_url: str, client: Redis) -> None:
    with channel(redis_url, global_keyprefix=prefix) as ours:
        for n in range(3):
            put(ours, n)
        first, second, third = (take(ours) for _ in range(3))
        second.ack()
        assert set(recorded(client, prefix)) == {first.delivery_tag, third.delivery_tag}
        first.ack()
        third.ack()
        assert recorded(client, prefix) == {}
        assert ours.basic_get(QUEUE) is None


@pytest.mark.keeps_keys(f"{PREFIX}.*")
def test_a_prefix_is_on_every_key(redis_url: str, client: Redis) -> None:
    with channel(redis_url, global_keyprefix=PREFIX) as ours:
        put(ours, 1)
        put(ours, 2)
        take(ours)
        keys: Any = client.keys("*")
        assert sorted(key.decode() for key in keys) == [
            f"{PREFIX}{QUEUE}",
            f"{PREFIX}unacked",
            f"{PREFIX}unacked_index",
        ]


def test_an_acknowledged_message_is_not_given_back_at_the_end(redis_url: str, client: Redis) -> None:
    with Connection(redis_url, transport=OURS) as connection:
        ours: Any = connection.channel()
        put(ours, "done")
        put(ours, "open")
        take(ours).ack()
        take(ours)
    # In good order, what is open goes back to the queue, and only that.
    assert recorded(client) == {}
    with channel(redis_url) as again:
        message = take(again)
        assert (message.payload, message.delivery_info["redelivered"]) == ("open", True)
        message.ack()
        assert again.basic_get(QUEUE) is None


@pytest.mark.parametrize(("taker", "restorer"), [(OURS, STOCK), (STOCK, OURS), (OURS, OURS)])
@pytest.mark.parametrize("prefix", ["", PREFIX])
def test_what_a_dead_process_recorded_another_restores(
    taker: str, restorer: str, prefix: str, redis_url: str, client: Redis
) -> None:
    with channel(redis_url, taker, global_keyprefix=prefix) as dead:
        put(dead, {"question": "why?"}, headers={"id": "7"})
        taken = take(dead)
    assert len(recorded(client, prefix)) == 1, "it died without an acknowledgement"

    with channel(redis_url, restorer, global_keyprefix=prefix, visibility_timeout=-1) as alive:
        assert alive.basic_get(QUEUE) is None
        alive.qos.restore_visible(interval=1)
        assert recorded(client, prefix) == {}
        message = take(alive)
        assert (message.payload, message.headers) == (taken.payload, taken.headers | {"redelivered": True})
        message.ack()
        assert recorded(client, prefix) == {}


def test_what_is_still_in_time_is_not_restored(redis_url: str, client: Redis) -> None:
    with channel(redis_url) as busy, channel(redis_url, visibility_timeout=600) as other:
        put(busy, 1)
        taken = take(busy)
        other.qos.restore_visible(interval=1)
        assert set(recorded(client)) == {taken.delivery_tag}
        assert other.basic_get(QUEUE) is None


def test_an_acknowledgement_makes_room_for_the_next_message(redis_url: str) -> None:
    with channel(redis_url) as ours:
        ours.basic_qos(0, 1, False)
        put(ours, 1)
        assert ours.qos.can_consume()
        message = take(ours)
        assert not ours.qos.can_consume()
        message.ack()
        assert ours.qos.can_consume()


@pytest.mark.parametrize("requeue", [True, False])
def test_a_rejected_message_goes_back_only_if_it_is_wanted(requeue: bool, redis_url: str, client: Redis) -> None:
    with channel(redis_url) as ours:
        put(ours, 1)
        take(ours).reject(requeue=requeue)
        assert recorded(client) == {}
        assert (ours.basic_get(QUEUE, no_ack=True) is not None) == requeue


# ---------------------------------------------------------------- what it costs


def test_a_channel_keeps_its_client_until_its_pool_goes(redis_url: str) -> None:
    with channel(redis_url) as ours:
        kept = ours._create_client()
        assert ours._create_client() is kept
        assert ours.client is not kept, "BRPOP blocks its connection"
        ours._disconnect_pools()
        put(ours, 1)
        take(ours).ack()
        assert ours._create_client() is not kept


def test_channels_share_no_client(redis_url: str) -> None:
    with channel(redis_url) as one, channel(redis_url) as other:
        assert one._create_client() is not other._create_client()


# ---------------------------------------------------------------- a broker that goes away


@pytest.fixture
def mortal() -> Generator[EmbeddedRedis]:
    with EmbeddedRedis.start() as server:
        yield server


def lose(server: EmbeddedRedis, transport: str) -> list[BaseException]:
    """What closing two channels with an open message each raises, once the server and then the connection have gone."""
    connection: Any = Connection(server.url, transport=transport)
    channels: list[Any] = [connection.channel() for _ in range(2)]
    for opened in channels:
        opened.queue_declare(QUEUE)
        put(opened, 1)
        take(opened)
    server.kill()
    # As Celery's worker does it. The first channel that fails ends kombu's round, and the other one stays open.
    connection.collect(0.1)
    errors: list[BaseException] = []
    for opened in channels:
        try:
            opened.close()
        except Exception as error:  # noqa: BLE001  (it is what the test is about)
            errors.append(error)
        opened.qos._delivered.clear()
    return errors


def test_a_broker_that_goes_with_unacknowledged_messages_is_a_connection_error(mortal: EmbeddedRedis) -> None:
    (error,) = lose(mortal, OURS)
    assert isinstance(error, redis.ConnectionError)
    assert "messages were unacknowledged" in str(error)
    # By these, Celery's worker knows that it has to connect anew.
    assert isinstance(error, Connection(mortal.url, transport=OURS).connection_errors)


def test_the_stock_transport_still_needs_that_mend(mortal: EmbeddedRedis) -> None:
    (error,) = lose(mortal, STOCK)
    assert isinstance(error, AttributeError)


def test_messages_of_a_broker_that_comes_back_are_taken_again() -> None:
    with EmbeddedRedis.start(aof=True) as server:
        with channel(server.url) as ours:
            put(ours, 1)
            take(ours)
            server.restart()
        with channel(server.url, visibility_timeout=-1) as again:
            again.qos.restore_visible(interval=1)
            take(again).ack()
