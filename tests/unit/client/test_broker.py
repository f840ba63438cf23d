"""URLs for Celery: every name of a server that the stores know, in the words that Celery knows."""

from __future__ import annotations

import json
import ssl

import pytest
from celery import Celery
from redis.connection import parse_url
from redis.sentinel import SentinelConnectionPool

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.broker import (
    add_tls_options,
    celery_tls,
    celery_url,
    get_broker_url,
    is_same_server,
    sentinel_options,
)
from snakepit_bridge.client.celery_app import get_backend_url
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.urls import Address


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://u:p@h:1/2", "redis://u:p@h:1/2"),
        ("valkey://h:1/2", "redis://h:1/2"),
        ("valkeys://h", "rediss://h"),
        ("unix:///run/v.sock?db=3", "redis+socket:///run/v.sock?virtual_host=3"),
        ("unix:///run/v.sock", "redis+socket:///run/v.sock"),
        ("redis+socket:///run/v.sock?db=3", "redis+socket:///run/v.sock?virtual_host=3"),
        ("redis+socket:///run/v.sock?virtual_host=3", "redis+socket:///run/v.sock?virtual_host=3"),
        ("redis+socket:///run/v.sock?db=3&virtual_host=3", "redis+socket:///run/v.sock?virtual_host=3"),
        ("redis://u:p@h:1?db=2", "redis://u:p@h:1/2"),
        ("valkeys://h/1?db=2&ssl_ca_certs=/ca.pem", "rediss://h/2?ssl_ca_certs=/ca.pem"),
        ("amqp://h?db=1", "amqp://h?db=1"),
    ],
)
def test_a_url_is_said_in_celerys_words(url: str, expected: str) -> None:
    assert celery_url(url) == expected


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"ssl_cert_reqs": "required"}),
        *((f"ssl_cert_reqs={value}", {"ssl_cert_reqs": "required"}) for value in ("required", "CERT_REQUIRED")),
        *((f"ssl_cert_reqs={value}", {"ssl_cert_reqs": "optional"}) for value in ("optional", "CERT_OPTIONAL")),
        *((f"ssl_cert_reqs={value}", {"ssl_cert_reqs": "none"}) for value in ("none", "CERT_NONE", "cert_none")),
        (
            "ssl_ca_certs=/a%20b/ca.pem&ssl_check_hostname=false&ssl_certfile=/c&ssl_keyfile=/k",
            {
                "ssl_cert_reqs": "required",
                "ssl_ca_certs": "/a b/ca.pem",
                "ssl_check_hostname": False,
                "ssl_certfile": "/c",
                "ssl_keyfile": "/k",
            },
        ),
        ("ssl_min_version=771", {"ssl_cert_reqs": "required", "ssl_min_version": 771}),
    ],
)
@pytest.mark.parametrize("scheme", ["rediss", "valkeys"])
def test_the_options_of_tls_reach_celery_as_values(scheme: str, query: str, expected: dict[str, object]) -> None:
    url = f"{scheme}://u:p@h:1/2?{query}".rstrip("?")
    assert celery_tls(url) == ("rediss://u:p@h:1/2", expected)
    # What our own connections take of the same URL, and of what a Celery app holds.
    for spelling in (url, add_tls_options(*celery_tls(url))):  # type: ignore[arg-type]
        parsed = dict(parse_url(Address.parse(spelling).url))
        ours = {name: value for name, value in parsed.items() if name.startswith("ssl_")}
        assert {"ssl_cert_reqs": "required"} | ours == expected


def test_a_url_without_tls_has_no_options_of_it() -> None:
    assert celery_tls("redis://u:p@h:1/2") == ("redis://u:p@h:1/2", None)
    assert celery_tls("unix:///run/v.sock?db=3") == ("redis+socket:///run/v.sock?virtual_host=3", None)
    assert celery_tls("amqps://h?ssl_ca_certs=/ca.pem") == ("amqps://h?ssl_ca_certs=/ca.pem", None)


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("rediss://u:hunter2@h?ssl_cert_reqs=sometimes", "ssl_cert_reqs is one of required, optional, none"),
        ("redis://u:hunter2@h?ssl_ca_certs=/ca.pem", "ssl_ca_certs is an option of TLS"),
        ("redis+sentinel://u:hunter2@h/s?sentinel_ssl_cert_reqs=none", "sentinel_ssl_cert_reqs is an option of TLS"),
        ("rediss+cluster://u:hunter2@h?ssl_cert_reqs=CERT_SOME", "got 'CERT_SOME'"),
    ],
)
def test_an_option_of_tls_that_cannot_be_is_named(url: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as refused:
        RedisConnection(url)
    assert "hunter2" not in str(refused.value)


def test_a_celery_app_that_holds_its_tls_apart_lends_it_to_our_connections() -> None:
    app = Celery("theirs", broker="rediss://h:1/0", backend="rediss://h:1/0", set_as_current=False)
    app.conf.redis_backend_use_ssl = {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_ca_certs": "/ca.pem"}
    assert get_backend_url(app) == "rediss://h:1/0?ssl_cert_reqs=CERT_NONE&ssl_ca_certs=/ca.pem"
    assert Fleet(app=app).app.conf.broker_url == "rediss://h:1/0"


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("redis+cluster://u:hunter2@h:1", "can't use"),
        ("sentinel://u:hunter2@h:1;sentinel://h:2", r"redis\+sentinel://HOST:PORT,HOST:PORT/SERVICE"),
        ("redis+sentinel://u:hunter2@h:1", "reads redis"),
    ],
)
def test_what_celery_cannot_use_is_refused_without_its_password(url: str, named: str) -> None:
    with pytest.raises(ConfigurationError, match=named) as refused:
        celery_url(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("url", ["http://u:hunter2@h", "hunter2"])
def test_a_broker_that_nothing_can_talk_to_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(ConfigurationError, match="Can't read the broker's URL .*amqp://host") as refused:
        _ = Fleet("redis://h", broker_url=url).app
    assert "hunter2" not in str(refused.value)


SENTINEL = "redis+sentinel://u:hunter%2F2@h:1,i:2/fleet/3?sentinel_password=hunter2"


def test_celery_is_given_the_first_sentinel_and_the_service_apart() -> None:
    assert celery_url(SENTINEL) == "redis://u:hunter%2F2@h:1/3"
    assert celery_url("redis+sentinel://[::1],h/fleet") == "redis://[::1]:26379/0"
    secured = "rediss+sentinel://h/fleet?ssl_ca_certs=/ca.pem&sentinel_ssl_ca_certs=/s.pem"
    assert celery_tls(secured) == (
        "rediss://h:26379/0", {"ssl_cert_reqs": "required", "ssl_ca_certs": "/ca.pem"}
    )  # fmt: skip
    service = sentinel_options(SENTINEL)["sentinel"]
    assert service.address.hosts == (("h", 1), ("i", 2))
    assert "hunter" not in repr(service) + json.dumps(service.__json__())
    assert sentinel_options("redis://h:1/0") == {}


def test_a_client_of_a_primary_behind_sentinel_finds_its_url_in_its_app() -> None:
    app = Fleet(SENTINEL).app
    assert get_broker_url(app) == get_backend_url(app) == SENTINEL
    pool = app.backend.client.connection_pool
    assert isinstance(pool, SentinelConnectionPool)
    assert pool.connection_kwargs["db"] == 3
    assert "hunter" not in Fleet(SENTINEL).broker


def test_two_databases_in_one_url_are_refused() -> None:
    url = "redis+socket:///run/v.sock?db=3&virtual_host=4"
    with pytest.raises(ConfigurationError):
        celery_url(url)
    with pytest.raises(ConfigurationError):
        RedisConnection(url)


@pytest.mark.parametrize(
    ("broker", "redis", "same"),
    [
        ("redis://h:6379/0", "redis://h", True),
        ("redis://u:p@h:1/2", "valkey://:other@h:1/2", True),
        ("redis://h:1/2", "redis://h:1/3", False),
        ("redis://h:1/2", "redis://other:1/2", False),
        ("redis://h:1/2", "rediss://h:1/2", False),
        ("redis+socket:///run/v.sock?virtual_host=3", "unix:///run/v.sock?db=3", True),
        ("redis+socket:///run/v.sock", "unix:///run/v.sock?db=3", False),
        ("dspex+socket:///run/v.sock", "unix:///run/v.sock", True),
        ("amqp://guest@h:5672//", "redis://h", False),
        ("sqs://", "redis://h", False),
        ("redis+sentinel://h:1,i:2/service", "redis+sentinel://u:p@i:2,h:1/service/0", True),
        ("redis+sentinel://h:1/service", "redis+sentinel://h:1/other", False),
        ("redis+sentinel://h:1/service", "redis://h:1/0", False),
        ("", "redis://h", False),
    ],
)
def test_a_broker_that_is_the_same_database_of_the_same_server_is_known(broker: str, redis: str, same: bool) -> None:
    assert is_same_server(broker, redis) is same
