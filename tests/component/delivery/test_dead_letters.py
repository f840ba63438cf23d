"""The dead list: what was given up is kept whole, and goes back to its queue as if nothing had been."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.delivery.dead_letters import DeadLetter, DeadLetters
from snakepit_bridge.delivery.keys import SEPARATOR, DeliveryKeys
from snakepit_bridge.exceptions import DeadMessageNotFoundError, PredictionGivenUpError
from snakepit_bridge.redis.connection import RedisConnection

LIST = f"predictions{SEPARATOR}3"
MESSAGE = json.dumps(
    {"body": "e30=", "headers": {"id": "7", "task": "t"}, "properties": {"deliveries": 5, "delivery_info": {}}}
).encode()


@pytest.fixture
async def dead(redis_url: str) -> AsyncGenerator[DeadLetters]:
    connection = RedisConnection(redis_url)
    yield DeadLetters(connection)
    await connection.aclose()


def bury(url: str, id: str, at: float = 1_000.0, message: bytes = MESSAGE, **known: Any) -> None:
    headers = {"reason": "lost", "error": "it fell silent", "list": LIST, "at": at, "task": "t", "task_id": "7",
            "deliveries": 5, **known}  # fmt: skip
    with Redis.from_url(url) as client:
        client.zadd(DeliveryKeys().dead, {id: at * 1000})
        client.hset(DeliveryKeys().dead_entries, id, json.dumps(headers).encode() + b"\n" + message)


def waiting(url: str) -> list[bytes]:
    with Redis.from_url(url) as client:
        found: Any = client.lrange(LIST, 0, -1)
    return found


async def test_the_newest_are_listed_first(dead: DeadLetters, redis_url: str) -> None:
    assert (await dead.latest(), await dead.count(), await dead.ids()) == ([], 0, [])
    for n in range(5):
        bury(redis_url, f"w.{n}", at=1_000.0 + n)
    assert [letter.id for letter in await dead.latest(2)] == ["w.4", "w.3"]
    assert (await dead.count(), (await dead.ids())[0]) == (5, "w.0")


async def test_a_dead_letter_has_all_its_fields(dead: DeadLetters, redis_url: str) -> None:
    bury(redis_url, "w.1", message=b"\xff\n\x00", task=None, task_id=None, reason="unreadable")
    letter = await dead.get("w.1")
    assert letter == DeadLetter("w.1", "unreadable", "it fell silent", LIST, None, None, (), 5, 1_000.0, b"\xff\n\x00")
    assert letter.queue == "predictions"
    assert letter.as_dict()["message"] == "\\xff\n\x00"


async def test_a_retried_message_is_requeued_at_the_tail_as_new(dead: DeadLetters, redis_url: str) -> None:
    bury(redis_url, "w.1")
    assert (await dead.retry("w.1")).id == "w.1"
    (message,) = map(json.loads, waiting(redis_url))
    assert message["properties"] == {"delivery_info": {}}
    assert await dead.count() == 0
    with pytest.raises(DeadMessageNotFoundError, match=r"No dead message w.1\. .*dead list"):
        await dead.retry("w.1")
    assert len(waiting(redis_url)) == 1


async def test_an_undecodable_message_is_retried_unchanged(dead: DeadLetters, redis_url: str) -> None:
    bury(redis_url, "w.1", message=b"\xff")
    await dead.retry("w.1")
    assert waiting(redis_url) == [b"\xff"]


def result(status: str, exc_type: str | None) -> str:
    return json.dumps({"status": status, "result": {"exc_type": exc_type} if exc_type else 1, "task_id": "7"})


@pytest.mark.parametrize(
    ("stored", "stays"),
    [
        (result("FAILURE", PredictionGivenUpError.__name__), False),
        (result("FAILURE", "DeadlineExceededError"), True),
        (result("SUCCESS", None), True),
    ],
)
async def test_a_retry_deletes_only_the_dead_letter_failure_of_its_task(
    stored: str, stays: bool, dead: DeadLetters, redis_url: str
) -> None:
    with Redis.from_url(redis_url) as client:
        client.set("celery-task-meta-7", stored, ex=60)
        bury(redis_url, "w.1")
        await dead.retry("w.1")
        assert bool(client.exists("celery-task-meta-7")) == stays


async def test_a_dropped_message_is_gone(dead: DeadLetters, redis_url: str) -> None:
    bury(redis_url, "w.1")
    bury(redis_url, "w.2")
    await dead.drop("w.1")
    assert await dead.ids() == ["w.2"]
    assert waiting(redis_url) == []
    for act in (dead.drop, dead.get):
        with pytest.raises(DeadMessageNotFoundError):
            await act("w.1")


async def test_a_retried_batch_deletes_the_failures_of_its_inputs(dead: DeadLetters, redis_url: str) -> None:
    """Each of them can have another."""
    ends = {"a": result("FAILURE", PredictionGivenUpError.__name__), "b": result("SUCCESS", None)}
    with Redis.from_url(redis_url) as client:
        for task_id, end in ends.items():
            client.set(f"celery-task-meta-{task_id}", end)
    bury(redis_url, "w.1", task_ids=["a", "b", "c"])
    assert (await dead.get("w.1")).task_ids == ("a", "b", "c")
    await dead.retry("w.1")
    with Redis.from_url(redis_url) as client:
        assert [client.exists(f"celery-task-meta-{task_id}") for task_id in "abc"] == [0, 1, 0]
