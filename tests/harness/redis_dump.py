"""All that a Redis holds, as text to be searched: what is base64 or compressed in it stands there decoded as well."""

from __future__ import annotations

import binascii
import contextlib
import re
import zlib
from base64 import b64decode
from collections.abc import Iterator
from functools import partial
from typing import Any

from redis import Redis

_BASE64 = re.compile(rb"[A-Za-z0-9+/]{24,}={0,2}")


def dump(url: str) -> str:
    """Return every key with its value."""
    with Redis.from_url(url) as client:
        return "\n".join(f"{key!r} {value}" for key in client.scan_iter(count=1_000) for value in _values(client, key))


def _values(client: Redis, key: Any) -> Iterator[str]:
    kind: Any = client.type(key)
    read: dict[Any, Any] = {
        b"string": partial(client.get, key), b"list": partial(client.lrange, key, 0, -1),
        b"hash": partial(client.hgetall, key), b"set": partial(client.smembers, key),
        b"zset": partial(client.zrange, key, 0, -1), b"stream": partial(client.xrange, key), b"none": dict,
    }  # fmt: skip
    for part in _flatten(read[kind]()):
        yield from map(repr, _decoded(part))


def _flatten(value: Any) -> Iterator[bytes]:
    if isinstance(value, bytes):
        yield value
    elif isinstance(value, dict):
        for item in value.items():
            yield from _flatten(item)
    elif isinstance(value, list | tuple | set):
        for each in value:
            yield from _flatten(each)


def _decoded(part: bytes) -> Iterator[bytes]:
    """Yield the bytes, and what base64 texts in them and zlib say."""
    yield part
    with contextlib.suppress(zlib.error):
        yield zlib.decompress(part)
    for found in _BASE64.findall(part):
        try:
            yield from _decoded(b64decode(found + b"=" * (-len(found) % 4)))
        except binascii.Error:
            continue
