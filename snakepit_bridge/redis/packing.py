"""Encoding of commands by hiredis, which redis-py only uses for connections that block.

Encoding in Python is most of what a command in a pipeline costs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, cast

import hiredis
from redis.asyncio.connection import AbstractConnection
from redis.exceptions import DataError

# Its type stub takes one word alone.
_pack = cast("Callable[[Sequence[Any]], bytes]", hiredis.pack_command)


@functools.cache
def pack_by_hiredis(connection_class: type[AbstractConnection]) -> type[AbstractConnection]:
    """Return a connection class that encodes commands by hiredis and is otherwise the same."""
    return type(connection_class.__name__, (_PackedConnection, connection_class), {})


class _PackedConnection(AbstractConnection):
    """Encodes commands by hiredis."""

    def pack_command(self, *args: Any) -> list[bytes]:
        """Return a command as it is sent.

        Raises:
            DataError: an argument is neither text nor bytes nor a number.
        """
        name, *others = args
        words = (name.encode() if isinstance(name, str) else name).split()  # such as CONFIG GET
        encoded = [bytes(each) if isinstance(each, bytearray | memoryview) else each for each in others]
        try:
            return [_pack((*words, *encoded))]
        except TypeError as exc:
            raise DataError(str(exc)) from exc
