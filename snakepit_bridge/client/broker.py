"""The URL of a broker: what Celery and kombu call a Redis that the stores know by more names."""

from __future__ import annotations

from urllib.parse import parse_qsl, urlencode

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
