"""The line: answers as they come, and a ring at the first change of what was looked at."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
import redis
from redis import Redis
from redis.exceptions import ResponseError

from tests.harness.waiting import wait_until
from workers.broker.wire import ClaimConnection

CLAIM: tuple[list[Any], list[Any]] = (["w", "t", "h", "d", "list"], ["me", 1, 10, "0"])


@pytest.fixture
def client(redis_url: str) -> Generator[Redis]:
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def line(redis_url: str) -> Generator[ClaimConnection]:
    pool = redis.ConnectionPool.from_url(redis_url, protocol=3)
    line = ClaimConnection(pool.make_connection())
    line.connect()
    yield line
    line.connection.disconnect()


def ask(line: ClaimConnection) -> list[Any]:
    answers: list[Any] = []
    line.notified = False
    line.send("claim", *CLAIM, answers.append)
    wait_until(lambda: line.read() or answers, "the answer")
    return answers[0]


def come(line: ClaimConnection) -> bool:
    if line.connection.can_read(0):
        line.read()
    return line.notified


def test_it_rings_once_for_the_first_change_of_a_list(line: ClaimConnection, client: Redis) -> None:
    assert ask(line) == [0, -1]
    assert not come(line)
    client.lpush("list", "a", "b")
    wait_until(lambda: come(line), "a ring")
    line.notified = False
    client.lpush("list", "c")
    assert not come(line), "until it looks again"
    assert ask(line)[3::2] == [b"a", b"b", b"c"]
    assert not come(line), "what it takes itself is no news"
    client.lpush("list", "d")
    wait_until(lambda: come(line), "a ring")
    assert ask(line)[3::2] == [b"d"]


def test_replies_arrive_in_the_order_of_the_requests(line: ClaimConnection, client: Redis) -> None:
    client.lpush("list", *map(str, range(5)))
    replies: list[tuple[int, bytes]] = []
    for n in range(5):
        claim_one = (CLAIM[0], ["me", n + 1, 1, "0"])
        line.send("claim", *claim_one, lambda reply, n=n: replies.append((n, reply[3])))
    wait_until(lambda: line.read() or len(replies) == 5, "five replies")
    assert replies == [(n, str(n).encode()) for n in range(5)]


def test_an_error_is_an_answer(line: ClaimConnection, client: Redis) -> None:
    client.set("list", "no list", ex=60)
    assert isinstance(ask(line), ResponseError)
    client.delete("list")
    assert ask(line) == [0, -1]


def test_a_server_that_tells_nothing_is_asked_again_and_again(redis_url: str, client: Redis) -> None:
    client.acl_setuser("deaf", enabled=True, nopass=True, keys=["*"], commands=["+@all", "-client|tracking"])
    try:
        line = ClaimConnection(redis.ConnectionPool.from_url(redis_url, protocol=3, username="deaf").make_connection())
        line.connect()
        assert not line.supports_tracking
        line.connection.disconnect()
    finally:
        client.acl_deluser("deaf")


def test_a_line_that_is_broken_off_is_met_as_a_lost_connection(line: ClaimConnection) -> None:
    line.send("claim", *CLAIM, lambda _: None)
    line.abort()
    with pytest.raises(redis.ConnectionError):
        wait_until(line.read, "the end")
    line.abort()
    assert not line.open
    line.connect()
    assert ask(line) == [0, -1]
