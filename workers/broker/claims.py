"""Moving or delaying a task's own message, so that a task that can't run here or now frees its slot.

The message leaves its claim and reaches its new place atomically. The task then raises Celery's ``Ignore``; the
acknowledgement that Celery sends for it finds no claim and does nothing.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from typing import Any

from snakepit_bridge.delivery.keys import SEPARATOR, DeliveryKeys
from snakepit_bridge.redis.connection import RedisConnection
from workers.broker.lua import SCRIPTS


class BrokerClaims:
    """The claims of the fleet's workers, as tasks use them.

    Args:
        connection: a connection to the broker's Redis.
        layout: the broker's keys.
        priority_steps: as in the broker's transport options.
    """

    library = SCRIPTS["claim_take"].text
    """Lua text that defines ``claim_take(base, tag)``, for scripts that put a held message somewhere of their own."""

    def __init__(
        self,
        connection: RedisConnection,
        layout: DeliveryKeys | None = None,
        priority_steps: Sequence[int] = (0, 3, 6, 9),
    ) -> None:
        self.connection = connection
        self.layout = layout or DeliveryKeys()
        self._steps = tuple(priority_steps)

    @property
    def base(self) -> str:
        """The key prefix, the first argument of ``claim_take``."""
        return self.layout.base

    async def move(self, tag: str, queue: str, priority: int | None = None) -> bool:
        """Move a held message to the end of another queue; return False if the claim is no longer held.

        The message keeps its priority unless another is given.

        Raises:
            StoreUnavailableError: the broker is unreachable; the message may or may not have moved.
        """
        step = "" if priority is None else self._steps[max(bisect(self._steps, priority) - 1, 0)]
        return await self._run("move", tag, (), (SEPARATOR, self.layout.waiting(queue), step))

    async def delay(self, tag: str, until_unix_s: float) -> bool:
        """Delay a held message until a Unix time; return False if the claim is no longer held.

        When due, it returns to the front of its queue.

        Raises:
            StoreUnavailableError: the broker is unreachable; the message may or may not have been delayed.
        """
        return await self._run("delay", tag, (self.layout.delayed,), (round(until_unix_s * 1000),))

    async def _run(self, name: str, tag: str, keys: Sequence[str], args: Sequence[Any]) -> bool:
        once = f"{self.base}:done:{tag}"
        return bool(await self.connection.run(SCRIPTS[name], [once, *keys], [self.base, tag, *args]))
