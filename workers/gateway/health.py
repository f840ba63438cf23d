"""The health of a gateway, as its endpoints answer it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from urllib.parse import urlsplit

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import DataFormatError, StoreUnavailableError
from workers.health.checks import Problems
from workers.health.loop_beat import LoopBeat

_SESSION = "default"
_AMQP_PORT, _AMQPS_PORT = 5672, 5671


class GatewayHealth:
    """The checks of a gateway.

    Args:
        fleet: the fleet that it serves.
        is_draining: returns whether it is shutting down.

    Attributes:
        beat: whether the event loop turns.
        is_serving: whether the servers accept calls.
    """

    def __init__(self, fleet: Fleet, is_draining: Callable[[], bool]) -> None:
        self.beat = LoopBeat()
        self.is_serving = False
        self._fleet = fleet
        self._is_draining = is_draining
        self._servers: Problems = {"store": "it hasn't been asked yet"}

    async def ask_servers(self) -> Problems:
        """Ask the store and the broker, and return their problems; ``ready`` returns them until the next time."""
        problems = {"store": await self._ask_store()}
        if self._fleet.on_rabbitmq:
            problems["broker"] = await self._ask_rabbitmq()
        self._servers = problems
        return problems

    def live(self) -> Problems:
        """Return whether the event loop turns."""
        return {"event_loop": self.beat.describe_stall()}

    def ready(self) -> Problems:
        """Return whether calls are accepted and can be answered, by what the servers answered last."""
        shutdown = "the gateway is shutting down" if self._is_draining() else ""
        return {**self.started(), **self.live(), "shutdown": shutdown, **self._servers}

    def started(self) -> Problems:
        """Return whether the servers accept calls."""
        return {"startup": "" if self.is_serving else "the gateway doesn't serve yet"}

    async def _ask_store(self) -> str:
        try:
            await self._fleet.store.heads([_SESSION])
        except StoreUnavailableError:
            return "it doesn't answer"
        except DataFormatError as exc:
            return str(exc)
        return ""

    async def _ask_rabbitmq(self) -> str:
        """Return why RabbitMQ can't be connected to; RabbitMQ ignores connections that send nothing."""
        url = urlsplit(self._fleet.broker)
        port = url.port or (_AMQPS_PORT if url.scheme == "amqps" else _AMQP_PORT)
        try:
            async with asyncio.timeout(self._fleet.connection.timeout_s):
                _, writer = await asyncio.open_connection(url.hostname or "localhost", port)
        except (OSError, TimeoutError) as exc:
            return f"it can't be connected to: {type(exc).__name__}"
        writer.close()
        return ""
