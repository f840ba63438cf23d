"""URLs for Celery: every name of a server that the stores know, in the words that Celery knows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.variables import Variable
from workers.dev.redis_server import EmbeddedRedis


@pytest.mark.parametrize("scheme", ["valkey", "redis"])
def test_a_fleet_enqueues_on_either_name_of_a_server(scheme: str) -> None:
    with EmbeddedRedis.start() as server:
        fleet = Fleet(f"{scheme}://{server.url.partition('://')[2]}", queue="q")
        fleet.submit("qa", {"question": "?"})
        with Redis.from_url(server.url) as client:
            assert sum(client.llen(name) for name in client.keys("q*")) == 1


DATABASES = ["unix?db=3", "unix?virtual_host=3", "redis+socket?db=3", "redis+socket?virtual_host=3"]


@pytest.mark.parametrize("spelled", DATABASES)
async def test_celery_and_the_stores_find_the_same_database_behind_a_socket(spelled: str) -> None:
    scheme, _, option = spelled.partition("?")
    with EmbeddedRedis.start(unix=True) as server:
        path = server.url.partition("://")[2].partition("?")[0]
        fleet = Fleet(f"{scheme}://{path}?{option}", queue="q")
        await asyncio.to_thread(fleet.submit, "qa", {"question": "?"})
        await fleet.store.publish("s", {"n": Variable.declare("n", 1)})
        with Redis(unix_socket_path=path, db=3) as client:
            keys: Any = client.keys("*")
            names = {name.decode() for name in keys}
            assert "dspex:sessions" in names
            assert any(name.startswith("q") for name in names), names
        with Redis(unix_socket_path=path) as client:
            assert not client.keys("*")
        await fleet.store.aclose()


def test_a_fleet_enqueues_through_a_unix_socket() -> None:
    with EmbeddedRedis.start(unix=True) as server:
        Fleet(server.url, queue="q").submit("qa", {"question": "?"})
        with Redis.from_url(server.url.replace("redis+socket", "unix")) as client:
            assert sum(client.llen(name) for name in client.keys("q*")) == 1
