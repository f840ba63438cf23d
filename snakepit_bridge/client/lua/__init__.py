"""The client's server-side scripts, each in a ``.lua`` file of its own."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from typing import Any

from snakepit_bridge.stores.connection import RedisConnection


@cache
def source(script: str) -> str:
    """Returns the text of a script.

    Raises:
        FileNotFoundError: there is no such script.
    """
    return (files(__name__) / f"{script}.lua").read_text(encoding="utf-8")


async def run(connection: RedisConnection, script: str, keys: Sequence[str], args: Sequence[Any]) -> Any:
    """Returns what a script answers.

    Raises:
        StoreUnavailableError: no answer within the timeout.
    """
    registered = connection.client.register_script(source(script))
    return await connection.bounded(registered(keys, args))
