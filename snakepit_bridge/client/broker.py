"""The URL of a broker: what Celery calls a Redis that the stores know by more names, and whether two are one."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode, urlsplit

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.stores.connection import masked

_SAME = {"valkey": "redis", "valkeys": "rediss"}


def celery_url(url: str) -> str:
    """Returns a URL as Celery reads it: ``valkey://`` is ``redis://`` there, and ``unix://`` is ``redis+socket://``.

    Raises:
        ConfigurationError: Celery can't work with what it names.
    """
    scheme, separator, rest = url.partition("://")
    if scheme.endswith(("+cluster", "+sentinel")):
        raise ConfigurationError(
            f"Celery can't use {masked(url)} as its broker and result backend; name a single server for those."
        )
    if scheme == "unix":
        path, _, query = rest.partition("?")
        options = {"virtual_host" if name == "db" else name: value for name, value in parse_qsl(query)}
        return f"redis+socket://{path}" + (f"?{urlencode(options)}" if options else "")
    return f"{_SAME.get(scheme, scheme)}{separator}{rest}"


def same_server(broker: str, redis: str) -> bool:
    """Tells whether a broker's URL leads to the same database of the same Redis, with its queues in lists."""
    place = _place(broker)
    return place is not None and place == _place(redis)


def _place(url: str) -> tuple[str, str, int, str] | None:
    parts = urlsplit(url)
    options = dict(parse_qsl(parts.query))
    scheme = parts.scheme.removeprefix("dspex+").replace("redis+socket", "socket")
    if scheme in ("unix", "socket"):
        return "socket", parts.path, 0, options.get("virtual_host") or options.get("db", "0")
    kind = _SAME.get(scheme, scheme)
    if kind not in ("redis", "rediss"):
        return None
    return kind, parts.hostname or "localhost", parts.port or 6379, parts.path.strip("/") or options.get("db", "0")
