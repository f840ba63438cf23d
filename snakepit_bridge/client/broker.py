"""The URL of a broker: what Celery calls a Redis that the stores know by more names, and whether two are one.

Celery gets the URL of a primary behind Sentinel as that of the first Sentinel, and a ``SentinelService`` apart from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from ssl import VerifyMode
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from celery import Celery
from kombu.transport import TRANSPORT_ALIASES

from snakepit_bridge.client.rabbitmq import is_rabbitmq
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.redaction import register_url
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.replication import Replication
from snakepit_bridge.redis.sentinel import OPTION, SentinelService
from snakepit_bridge.redis.urls import SCHEMES, Address, OptionError, mask_url, rename_option, split_tls

_SCHEME_ALIASES = {"valkey": "redis", "valkeys": "rediss"}


def celery_url(url: str) -> str:
    """Return a URL as Celery reads it: ``valkey://`` is ``redis://`` there, and ``unix://`` is ``redis+socket://``.

    The database is the one that the stores find there, whichever way it is named.

    Raises:
        ConfigurationError: Celery can't work with what it names.
    """
    register_url(url)
    scheme, separator, rest = url.partition("://")
    if scheme.endswith("+cluster"):
        raise ConfigurationError(
            f"Celery can't use {mask_url(url)} as its broker and result backend; name a single server for those."
        )
    if scheme == "sentinel":
        raise ConfigurationError(
            f"Celery's own transport for Sentinel, which {mask_url(url)} names, loses tasks of workers that die. Write "
            "the URL as redis+sentinel://HOST:PORT,HOST:PORT/SERVICE/DB."
        )
    if scheme.endswith("+sentinel"):
        return _first_sentinel(url)
    try:
        if scheme in ("unix", "redis+socket"):
            return rename_option(f"redis+socket://{rest}", "db", "virtual_host")
    except ValueError as exc:
        raise ConfigurationError(f"The URL {mask_url(url)} can't be parsed: {exc}.") from None
    return _move_db_to_path(f"{_SCHEME_ALIASES.get(scheme, scheme)}{separator}{rest}")


def check_broker_url(url: str) -> str:
    """Return the URL of a broker that kombu has a transport for.

    Raises:
        ConfigurationError: it has none.
    """
    scheme, separator, _ = url.partition("://")
    if not separator or (scheme not in SCHEMES and scheme not in TRANSPORT_ALIASES):
        shown = mask_url(url) if separator else "***"
        raise ConfigurationError(
            f"Can't read the broker's URL {shown}; it looks like amqp://host:5672 or redis://host:6379/0."
        )
    return url


def celery_tls(url: str) -> tuple[str, dict[str, Any] | None]:
    """Return a URL of Redis as Celery reads it, and apart from it the options of TLS; None where it speaks none.

    They are Celery's ``broker_use_ssl`` and ``redis_backend_use_ssl``: in the URL, Celery wants some of them, takes the
    others for text, and lets the broker's connection go unverified where there are none.

    Raises:
        ConfigurationError: Celery can't work with what it names.
    """
    known = celery_url(url)
    if not known.startswith(("redis://", "rediss://")):
        return known, None
    try:
        bare, options = split_tls(known)
    except OptionError as exc:
        raise ConfigurationError(f"Can't read the Redis URL {mask_url(url)}: {exc}.") from None
    return bare, options or None


def find_sentinel(url: str) -> SentinelService | None:
    """Return the service of a URL that leads to Sentinel; None for any other.

    Raises:
        ConfigurationError: the URL is invalid.
    """
    try:
        return SentinelService.parse(url)
    except ValueError as exc:
        # Only the message of an OptionError can't quote the password.
        problem = f"{exc}" if isinstance(exc, OptionError) else "it reads redis+sentinel://HOST:PORT,HOST:PORT/SERVICE"
        raise ConfigurationError(f"Can't read the Redis URL {mask_url(url)}: {problem}.") from None


def sentinel_options(url: str) -> dict[str, Any]:
    """Return the transport options, of broker or result backend, that lead from the first Sentinel to the primary.

    Raises:
        ConfigurationError: the URL is invalid.
    """
    service = find_sentinel(url)
    return {} if service is None else {OPTION: service}


def get_broker_url(app: Celery) -> str:
    """Return the URL of the broker that an app sends to."""
    service = (app.conf.broker_transport_options or {}).get(OPTION)
    return service.url if service else str(app.conf.broker_write_url or app.conf.broker_url or "")


def _first_sentinel(url: str) -> str:
    """Return the URL of the first Sentinel of several, with the credentials and options of the primary."""
    service = find_sentinel(url)
    assert service is not None
    bare, _, query = url.partition("?")
    scheme, _, rest = bare.partition("://")
    credentials, at, _ = rest.rpartition("@")
    host, port = service.address.hosts[0]
    own = [(name, value) for name, value in parse_qsl(query) if not name.startswith("sentinel_")]
    place = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    known = f"{scheme.partition('+')[0]}://{credentials}{at}{place}/{service.address.options.get('db') or 0}"
    return f"{known}?{urlencode(own, safe='/')}" if own else known


def add_tls_options(url: str, options: Mapping[str, Any]) -> str:
    """Return a URL with the options of TLS that a Celery app holds apart from it, so that the stores verify alike."""
    bare, _, query = url.partition("?")
    if bare.startswith("redis://"):
        bare = bare.replace("redis://", "rediss://", 1)
    given = {name: _text(value) for name, value in options.items() if value is not None}
    return f"{bare}?{urlencode({**given, **dict(parse_qsl(query))}, safe='/')}"


def _text(value: object) -> str:
    return value.name if isinstance(value, VerifyMode) else str(value)


def _move_db_to_path(url: str) -> str:
    """Return a URL with its database in the path, where alone Celery looks; redis-py takes the option's first."""
    bare, _, query = url.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    if not bare.startswith(("redis://", "rediss://")) or "db" not in options:
        return url
    parts = urlsplit(bare)
    database = options.pop("db")
    return parts._replace(path=f"/{database}", query=urlencode(options, safe="/")).geturl()


def is_same_server(broker: str, redis: str) -> bool:
    """Return whether a broker's URL leads to the same database of the same Redis, with its queues in lists."""
    place = _parse_location(broker)
    return place is not None and place == _parse_location(redis)


def _parse_location(url: str) -> tuple[object, ...] | None:
    if url.partition("://")[0].endswith("+sentinel"):
        address = Address.parse(url)
        return "sentinel", frozenset(address.hosts), address.service, address.options.get("db") or 0
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    scheme = parts.scheme.removeprefix("dspex+").replace("redis+socket", "socket")
    if scheme in ("unix", "socket"):
        return "socket", parts.path, 0, options.get("db") or options.get("virtual_host", "0")
    kind = _SCHEME_ALIASES.get(scheme, scheme)
    if kind not in ("redis", "rediss"):
        return None
    return kind, parts.hostname or "localhost", parts.port or 6379, options.get("db") or parts.path.strip("/") or "0"


async def check_durability(replication: Replication, connection: RedisConnection, broker: str, url: str) -> None:
    """Refuse a durability that the servers can't give to a message and to its result.

    On RabbitMQ, whose messages are confirmed once they are on its disk, it is the result's alone.

    Args:
        replication: what is waited for.
        connection: the Redis of results.
        broker: the broker's URL.
        url: that Redis's.

    Raises:
        ConfigurationError: they can't.
        StoreUnavailableError: Redis is away.
    """
    await connection.durable.check(replication)
    if is_rabbitmq(broker) or is_same_server(broker, url):
        return
    raise ConfigurationError(
        f"Durability '{replication}' can't be had of the broker {mask_url(broker)}: it is another Redis than that of "
        "results. Use one server for both, RabbitMQ, or durability 'primary'."
    )
