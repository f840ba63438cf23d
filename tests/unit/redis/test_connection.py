"""The way to Redis: which URLs it takes, and what it shows of them."""

from __future__ import annotations

import traceback

import pytest

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.redis.connection import RedisConnection, mask_url
from snakepit_bridge.redis.urls import Address


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("redis://localhost:6379/0", "redis://localhost:6379/0"),
        ("redis://:pass@localhost", "redis://***@localhost"),
        ("rediss://user:pass@localhost:6380/1", "rediss://***@localhost:6380/1"),
        ("redis://:p@ss@localhost", "redis://***@localhost"),
        ("redis://:p/a:s#s@localhost", "redis://***@localhost"),
        ("redis://localhost?db=1&password=pass", "redis://localhost?db=1&password=***"),
        (
            "redis+sentinel://u:pass@h:1,i:2/fleet/3?sentinel_password=pass",
            "redis+sentinel://***@h:1,i:2/fleet/3?sentinel_password=***",
        ),
        ("unix:///run/redis.sock?password=pass&db=2", "unix:///run/redis.sock?password=***&db=2"),
    ],
)
def test_credentials_are_masked(url: str, seen: str) -> None:
    assert mask_url(url) == seen


@pytest.mark.parametrize(
    "url", ["redis://h", "rediss://h:1/2", "valkey://h", "valkeys://h", "unix:///s.sock", "redis+socket:///s.sock"]
)
def test_every_url_spelling_is_accepted(url: str) -> None:
    assert RedisConnection(url).url == url


@pytest.mark.parametrize(
    "url", ["redis://:s3cret", "redis://:s3/cret@h", "redis://h:s3cret/0", "amqp://s3cret@h", "s3cret"]
)
def test_an_invalid_url_is_rejected_without_quoting_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="it looks like redis://") as raised:
        RedisConnection(url)
    assert "s3" not in "".join(traceback.format_exception_only(raised.value))


def test_sentinel_and_cluster_urls_name_several_hosts() -> None:
    sentinel = Address.parse("rediss+sentinel://u:p%40@h:1,i/fleet/3?ssl_ca_certs=/ca.pem&sentinel_username=s")
    assert (sentinel.kind, sentinel.hosts, sentinel.service) == ("sentinel", (("h", 1), ("i", 26379)), "fleet")
    assert {name: sentinel.options[name] for name in ("username", "password", "db", "ssl_ca_certs")} == {
        "username": "u",
        "password": "p@",
        "db": 3,
        "ssl_ca_certs": "/ca.pem",
    }
    assert sentinel.sentinel_options["username"] == "s"
    assert "ssl_ca_certs" not in sentinel.sentinel_options
    cluster = Address.parse("redis+cluster://:p@h:1,[::1]:2")
    assert (cluster.kind, cluster.hosts, cluster.options) == ("cluster", (("h", 1), ("::1", 2)), {"password": "p"})
    assert RedisConnection("redis+cluster://h").cluster
    assert not RedisConnection("redis://h").cluster


@pytest.mark.parametrize(
    "url",
    ["redis+sentinel://:s3@h:1", "redis+cluster://:s3@h/1", "redis+cluster://:s3@h:x", "redis+sentinel://:s3@h,/x"],
)
def test_invalid_hosts_are_rejected_without_quoting_the_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="it looks like redis://") as raised:
        RedisConnection(url)
    assert "s3" not in str(raised.value)
