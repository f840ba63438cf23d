"""Commands are the same bytes whether hiredis encodes them or redis-py."""

from __future__ import annotations

from typing import Any

import pytest
from redis.asyncio.connection import Connection, SSLConnection, UnixDomainSocketConnection
from redis.exceptions import DataError

from snakepit_bridge.redis.pools import pack_by_hiredis
from snakepit_bridge.redis.urls import Address

COMMANDS: list[tuple[Any, ...]] = [
    ("GET", "key"),
    ("CONFIG GET", "maxmemory"),
    (b"SCRIPT LOAD", b"return 1"),
    ("EVALSHA", "0" * 40, 2, "first", b"\xff\r\n$9", 3, 2.5, 1e300, "ü 𝄞", ""),
    ("SET", "key", bytearray(b"abc"), "EX", 10**15),
    ("SET", "key", b"x" * 100_000),
]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", [Connection, UnixDomainSocketConnection, SSLConnection])
def test_the_bytes_are_those_of_redis_py(command: tuple[Any, ...], kind: type[Connection]) -> None:
    assert b"".join(pack_by_hiredis(kind)().pack_command(*command)) == b"".join(kind().pack_command(*command))


@pytest.mark.parametrize("value", [None, True, object(), ["a"]])
def test_what_is_no_text_and_no_number_is_refused(value: Any) -> None:
    with pytest.raises(DataError):
        Connection().pack_command("SET", "key", value)
    with pytest.raises(DataError):
        pack_by_hiredis(Connection)().pack_command("SET", "key", value)


@pytest.mark.parametrize("url", ["redis://localhost/0", "rediss://localhost/0", "unix:///run/redis.sock"])
async def test_every_connection_of_a_pool_encodes_by_hiredis(url: str) -> None:
    pool = Address.parse(url).client(max_connections=1).connection_pool
    assert pool.connection_class is pack_by_hiredis(pool.connection_class.__mro__[2])
