"""The URL of a broker: what Celery calls a Redis that the stores know by more names, and whether two are one."""

from __future__ import annotations

from collections.abc import Mapping
from ssl import VerifyMode
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.redaction import register_url
from snakepit_bridge.redis.urls import OptionError, mask_url, rename_option, split_tls

_SCHEME_ALIASES = {"valkey": "redis", "valkeys": "rediss"}


def celery_url(url: str) -> str:
    """Return a URL as Celery reads it: ``valkey://`` is ``redis://`` there, and ``unix://`` is ``redis+socket://``.

    The database is the one that the stores find there, whichever way it is named.

    Raises:
        ConfigurationError: Celery can't work with what it names.
    """
    register_url(url)
    scheme, separator, rest = url.partition("://")
    if scheme.endswith(("+cluster", "+sentinel")):
        raise ConfigurationError(
            f"Celery can't use {mask_url(url)} as its broker and result backend; name a single server for those."
        )
    try:
        if scheme in ("unix", "redis+socket"):
            return rename_option(f"redis+socket://{rest}", "db", "virtual_host")
    except ValueError as exc:
        raise ConfigurationError(f"The URL {mask_url(url)} can't be parsed: {exc}.") from None
    return _move_db_to_path(f"{_SCHEME_ALIASES.get(scheme, scheme)}{separator}{rest}")


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


def _parse_location(url: str) -> tuple[str, str, int, str] | None:
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    scheme = parts.scheme.removeprefix("dspex+").replace("redis+socket", "socket")
    if scheme in ("unix", "socket"):
        return "socket", parts.path, 0, options.get("db") or options.get("virtual_host", "0")
    kind = _SCHEME_ALIASES.get(scheme, scheme)
    if kind not in ("redis", "rediss"):
        return None
    return kind, parts.hostname or "localhost", parts.port or 6379, options.get("db") or parts.path.strip("/") or "0"
