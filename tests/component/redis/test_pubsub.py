"""One subscription for a whole process: it comes back by itself, tells of gaps, and never costs more than one line."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.process.aio import OutageLog
from snakepit_bridge.redis import pubsub as subscription
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.pubsub import Subscription, text_handler, weak_handler
from snakepit_bridge.redis.pubsub_connection import PubSubConnection
from tests.component.client.test_results import DONE
from tests.harness.stage import fresh
from tests.harness.waiting import eventually, within
from workers.dev.redis_server import EmbeddedRedis


def publish(url: str, channel: str, what: str) -> None:
    with Redis.from_url(url) as client:
        client.publish(channel, what)


def subscribers(url: str, channel: str) -> int:
    with Redis.from_url(url) as client:
        [(_, count)] = client.pubsub_numsub(channel)
    return count


def kill_subscribers(url: str, channel: str) -> None:
    """Cut the lines of this test alone: channels belong to the server, which other tests use as well."""
    database = url.rsplit("/", 1)[1]
    with Redis.from_url(url) as client:
        for connection in client.client_list(_type="pubsub"):
            if connection["db"] == database:
                client.client_kill_filter(_id=connection["id"])


async def soon(heard: list[Any], what: list[Any]) -> None:
    async def there() -> bool:
        return heard == what

    await eventually(there, f"{what}, having heard {heard}", timeout_s=5)


async def test_messages_are_received_once_the_subscription_is_confirmed(redis_url: str) -> None:
    heard: list[bytes | None] = []
    channel, listening = fresh("channel"), Subscription(RedisConnection(redis_url))
    await listening.subscribe(channel, heard.append)
    publish(redis_url, channel, "one")
    publish(redis_url, channel, "two")
    # None: it had to be looked at once, since what was said before the confirmation isn't known.
    await soon(heard, [None, b"one", b"two"])


async def test_all_channels_share_one_connection(redis_url: str) -> None:
    listening, name = Subscription(RedisConnection(redis_url)), fresh("channel")
    heard: dict[str, list[bytes | None]] = {f"{name}-{number}": [] for number in range(50)}
    await asyncio.gather(*(listening.subscribe(each, messages.append) for each, messages in heard.items()))
    for each in heard:
        publish(redis_url, each, each)
    for each, messages in heard.items():
        await soon(messages, [None, each.encode()])
    with Redis.from_url(redis_url) as client:
        assert client.pubsub_numsub(*heard) == [(each.encode(), 1) for each in heard]


async def test_the_last_handler_unsubscribes_the_channel(redis_url: str) -> None:
    first: list[bytes | None] = []
    second: list[bytes | None] = []
    channel, listening = fresh("channel"), Subscription(RedisConnection(redis_url))
    await listening.subscribe(channel, first.append)
    await listening.subscribe(channel, second.append)
    await listening.unsubscribe(channel, first.append)
    publish(redis_url, channel, "one")
    await soon(second, [b"one"])
    assert first == [None]
    await listening.unsubscribe(channel, second.append)
    await listening.unsubscribe(channel, second.append)

    async def gone() -> bool:
        with Redis.from_url(redis_url) as client:
            return client.pubsub_numsub(channel) == [(channel.encode(), 0)]

    await eventually(gone, "the server to know of no listener")


async def test_handlers_are_notified_of_a_gap_after_a_reconnection(redis_url: str) -> None:
    heard: list[bytes | None] = []
    channel, listening = fresh("channel"), Subscription(RedisConnection(redis_url))
    await listening.subscribe(channel, heard.append)
    for _ in range(3):
        heard.clear()
        kill_subscribers(redis_url, channel)
        await soon(heard, [None])
        publish(redis_url, channel, "again")
        await soon(heard, [None, b"again"])


async def test_registered_handlers_are_notified_once_a_server_that_was_down_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    texts: list[str] = []
    gaps: list[str] = []
    with EmbeddedRedis.start() as server:
        outage = OutageLog(logging.getLogger("test"), "No news")
        listening = Subscription(RedisConnection(server.url), recheck=False, outage=outage)
        listening.register("first", text_handler(texts.append, lambda: gaps.append("first")))
        listening.register("second", text_handler(texts.append, lambda: gaps.append("second")))
        server.kill()
        listening.start()
        listening.start()
        await eventually(lambda: logged(caplog, "No news"), "the outage to be logged")
        server.restart()
        await eventually(lambda: logged(caplog, "Recovered: No news"), "the end of the outage to be logged")
        assert sorted(gaps) == ["first", "second"]
        publish(server.url, "second", "told")
        await soon(texts, ["told"])
        assert len([line for line in caplog.messages if line.startswith("No news")]) == 1
        await listening.aclose()
        assert subscribers(server.url, "first") == 0


async def logged(caplog: pytest.LogCaptureFixture, start: str) -> bool:
    return any(line.startswith(start) for line in caplog.messages)


async def test_a_handler_that_fails_ends_neither_the_others_nor_the_subscription(
    redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    heard: list[bytes | None] = []

    def fail(message: bytes | None) -> None:
        if message is not None:
            raise ValueError("unreadable")

    listening, channel = Subscription(RedisConnection(redis_url)), fresh("channel")
    await listening.subscribe(channel, fail)
    await listening.subscribe(channel, heard.append)
    for message in ("one", "two"):
        publish(redis_url, channel, message)
    await soon(heard, [b"one", b"two"])
    assert len([line for line in caplog.messages if channel in line]) == 2


async def test_a_channel_is_confirmed_by_the_reply_to_its_newest_subscribe(redis_url: str) -> None:
    events: list[tuple[bytes, bytes | None]] = []
    async with PubSubConnection(RedisConnection(redis_url), lambda *event: events.append(event)) as link:
        first = asyncio.ensure_future(link.subscribe(b"channel"))
        await asyncio.sleep(0)
        await link.unsubscribe(b"channel")
        await link.subscribe(b"channel")
        await first
        await link.ping()
    assert events == [(b"channel", None)]


async def test_a_channel_whose_subscribe_was_never_sent_is_subscribed_to_by_the_next(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    redis = RedisConnection(redis_url, namespace=fresh("namespace"))
    async with PubSubConnection(redis, lambda *_: None) as link:
        with monkeypatch.context() as looking:
            # What is sent after a reply that came too late waits until the format was read again.
            redis._forget_format()
            looking.setattr(redis.client, "execute_command", lambda *_: asyncio.Event().wait())
            for early in (link.subscribe(b"channel"), link.ping()):
                unsent = asyncio.ensure_future(early)
                await asyncio.sleep(0)
                unsent.cancel()
                await asyncio.gather(unsent, return_exceptions=True)
        await link.subscribe(b"channel")
        await link.ping()
        assert subscribers(redis_url, "channel") == 1


async def test_a_channel_that_is_left_and_joined_again_at_once_is_subscribed_to(redis_url: str) -> None:
    redis = RedisConnection(redis_url, namespace=fresh("namespace"))
    async with PubSubConnection(redis, lambda *_: None) as link:
        for _ in range(10):
            await link.subscribe(b"channel")
            # Each command waits until the format was read again, and not all of them as long.
            redis._forget_format()
            leaving = asyncio.ensure_future(link.unsubscribe(b"channel"))
            await asyncio.sleep(0)
            await asyncio.gather(leaving, link.subscribe(b"channel"))
            await link.ping()
            assert subscribers(redis_url, "channel") == 1


async def test_an_unreachable_server_is_reported_at_once() -> None:
    listening = Subscription(RedisConnection("redis://127.0.0.1:9/0", timeout_s=30))
    with within(5), pytest.raises(StoreUnavailableError):
        await listening.subscribe("channel", lambda _: None)


async def test_handlers_are_notified_periodically_without_messages(
    redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(subscription, "RECHECK_INTERVAL_S", 0.05)
    heard: list[bytes | None] = []
    listening = Subscription(RedisConnection(redis_url))
    await listening.subscribe(fresh("channel"), heard.append)

    async def often() -> bool:
        return heard.count(None) > 3

    await eventually(often, "looks")


async def test_a_silent_connection_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "RECHECK_INTERVAL_S", 0.2)
    with EmbeddedRedis.start() as server:
        heard: list[bytes | None] = []
        listening, channel = Subscription(RedisConnection(server.url, timeout_s=1)), fresh("channel")
        await listening.subscribe(channel, heard.append)
        os.kill(server.pid, signal.SIGSTOP)
        first = listening._listening._link

        async def another() -> bool:
            return listening._listening._link is not first

        await eventually(another, "the silent line to be given up")
        os.kill(server.pid, signal.SIGCONT)
        heard.clear()

        async def back() -> bool:
            publish(server.url, channel, "back")
            return b"back" in heard

        await eventually(back, "the line to come back")


async def test_handles_see_results_that_were_stored_during_a_disconnection(redis_url: str) -> None:
    fleet = Fleet(redis_url, wait_s=20)
    handles = [await asyncio.to_thread(fleet.submit, "qa", {"question": "?"}) for _ in range(20)]
    waiting = asyncio.gather(*handles)
    replies = fleet.results.reply_channel

    async def listened_to() -> bool:
        with Redis.from_url(redis_url) as client:
            return client.pubsub_numsub(replies)[0][1] == 1

    await eventually(listened_to, "the subscription")
    with Redis.from_url(redis_url) as client:
        for handle in handles:
            end = {"status": "SUCCESS", "result": DONE, "traceback": None, "children": [], "task_id": handle.id}
            client.set(f"celery-task-meta-{handle.id}", fleet.app.backend.encode(end), ex=60)
    kill_subscribers(redis_url, replies)
    with within(4):
        assert [prediction.answer for prediction in await waiting] == ["42"] * 20


async def test_a_freed_subscription_ends_its_tasks_and_closes_its_connection(redis_url: str) -> None:
    before, channel = asyncio.all_tasks(), fresh("channel")
    listening = Subscription(RedisConnection(redis_url))
    await listening.subscribe(channel, lambda _: None)
    assert subscribers(redis_url, channel) == 1
    del listening
    gc.collect()

    async def gone() -> bool:
        return asyncio.all_tasks() == before and not subscribers(redis_url, channel)

    await eventually(gone, "the tasks and the connection to end")


class Listener:
    """Listens for as long as it lives."""

    def __init__(self, url: str) -> None:
        # On a busy machine an answer takes seconds, which is no outage here.
        self.subscription = Subscription(RedisConnection(url, timeout_s=30.0))
        self.heard: list[bytes | None] = []

    def hear(self, what: bytes | None) -> None:
        self.heard.append(what)


async def test_a_weak_handler_does_not_keep_its_object_alive(redis_url: str) -> None:
    listener, channel = Listener(redis_url), fresh("channel")
    messages = listener.heard
    await listener.subscription.subscribe(channel, weak_handler(listener.hear))
    gc.collect()
    publish(redis_url, channel, "heard")

    async def heard() -> bool:
        return b"heard" in messages

    # Where this takes seconds, further notices that something may have been missed come in between.
    await eventually(heard, f"the message, having heard {messages}")
    del listener

    async def gone() -> bool:
        gc.collect()
        return not subscribers(redis_url, channel)

    await eventually(gone, "the connection to end")


async def test_a_database_that_isnt_there_is_an_outage_to_it(redis_url: str, caplog: pytest.LogCaptureFixture) -> None:
    connection = RedisConnection(f"{redis_url.rpartition('/')[0]}/9999")
    listening = Subscription(connection, outage=OutageLog(logging.getLogger("test"), "No news"))
    listening.start()
    await eventually(lambda: logged(caplog, "No news"), "the outage to be logged")
    assert "the number at the URL's end" in caplog.text
    await listening.aclose()
