"""URLs for Celery: every name of a server that the stores know, in the words that Celery knows."""

from __future__ import annotations

import pytest
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.broker import celery_url
from snakepit_bridge.exceptions import ConfigurationError
from workers.embedded import EmbeddedRedis


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://u:p@h:1/2", "redis://u:p@h:1/2"),
        ("valkey://h:1/2", "redis://h:1/2"),
        ("valkeys://h", "rediss://h"),
        ("unix:///run/v.sock?db=3", "redis+socket:///run/v.sock?virtual_host=3"),
        ("unix:///run/v.sock", "redis+socket:///run/v.sock"),
        ("amqp://h", "amqp://h"),
    ],
)
def test_a_url_is_said_in_celerys_words(url: str, expected: str) -> None:
    assert celery_url(url) == expected


@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
def test_what_celery_cannot_use_is_refused_without_its_password(kind: str) -> None:
    with pytest.raises(ConfigurationError, match="can't use") as refused:
        celery_url(f"redis+{kind}://u:hunter2@h:1/s")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("scheme", ["valkey", "redis"])
def test_a_fleet_enqueues_on_either_name_of_a_server(scheme: str) -> None:
    with EmbeddedRedis.start() as server:
        fleet = Fleet(f"{scheme}://{server.url.partition('://')[2]}", queue="q")
        fleet.submit("qa", {"question": "?"})
        with Redis.from_url(server.url) as client:
            assert sum(client.llen(name) for name in client.keys("q*")) == 1


def test_a_fleet_enqueues_through_a_unix_socket() -> None:
    with EmbeddedRedis.start(unix=True) as server:
        Fleet(server.url, queue="q").submit("qa", {"question": "?"})
        with Redis.from_url(server.url.replace("redis+socket", "unix")) as client:
            assert sum(client.llen(name) for name in client.keys("q*")) == 1
