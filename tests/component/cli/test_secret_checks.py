"""What ``doctor`` says of who may do everything on Redis."""

from __future__ import annotations

from redis import Redis

from snakepit_bridge.cli.secret_checks import check_default_user
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.redis.connection import RedisConnection


def test_a_default_user_that_may_do_everything_is_warned_of(redis_url: str) -> None:
    [check] = run_blocking(check_default_user(RedisConnection(redis_url)))
    assert (check.level, check.found) == ("warn", "anybody who reaches it may do everything")


def test_who_may_not_ask_is_told_nothing(redis_url: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.execute_command("ACL", "SETUSER", "few", "reset", "on", ">pw", "+ping", "+client|setinfo")
        try:
            url = redis_url.replace("redis://", "redis://few:pw@")
            assert run_blocking(check_default_user(RedisConnection(url))) == []
        finally:
            client.execute_command("ACL", "DELUSER", "few")
