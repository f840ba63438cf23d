"""Hints: what one process tells the others at once. Each is also found by looking: a lost one costs time alone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from redis.exceptions import RedisError

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.stores.connection import RedisConnection

_log = logging.getLogger(__name__)

Heard = Callable[[str], None]


async def listen(connection: RedisConnection, channels: Mapping[str, Heard]) -> None:
    """Hands on what is said on each channel until the line breaks.

    Raises:
        StoreUnavailableError: it broke.
    """
    line = await connection.line()
    try:
        await connection.bounded(line.send_command("SUBSCRIBE", *channels, check_health=False))
        while True:
            _hand_on(await line.read_response(timeout=float("inf"), push_request=True), channels)
    except (RedisError, OSError) as error:
        raise StoreUnavailableError(connection.url, str(error).rstrip(".") or type(error).__name__) from error
    finally:
        await line.disconnect(nowait=True)


def _hand_on(told: object, channels: Mapping[str, Heard]) -> None:
    match told:
        case [b"message", bytes() as channel, bytes() as said]:
            try:
                channels[channel.decode()](said.decode())
            except ValueError as unreadable:
                _log.warning("Heard on %s what can't be read: %s", channel.decode(errors="replace"), unreadable)
        case _:
            return
