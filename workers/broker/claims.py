"""Claims as the tasks see them: a task that can't run here or now gives its message away and holds no slot.

The message leaves the claim and gets to its new place in one step. The task then ends with Celery's ``Ignore``; the
acknowledgement that Celery sends for it finds no claim any more and does nothing.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from typing import Any

from snakepit_bridge.redis.connection import RedisConnection
from workers.broker.keys import SEPARATOR, DeliveryKeys
from workers.broker.lua import SCRIPTS


class BrokerClaims:
    """The claims of the fleet's workers.

    Args:
        connection: the way to the broker's Redis.
        layout: its keys.
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
        """What ``claim_take`` takes first."""
        return self.layout.base

    async def move(self, tag: str, queue: str, priority: int | None = None) -> bool:
        """Moves a held message to the end of another queue; False if the claim isn't held any more.

        The message keeps its priority unless another is given.

        Raises:
            StoreUnavailableError: the broker is away. Whether it moved is unknown then.
        """
        step = "" if priority is None else self._steps[max(bisect(self._steps, priority) - 1, 0)]
        return await self._run("move", tag, (), (SEPARATOR, self.layout.waiting(queue), step))

    async def delay(self, tag: str, until_unix_s: float) -> bool:
        """Puts a held message aside until a moment of Unix time; False if the claim isn't held any more.

        It comes back to the front of its queue, to whichever worker has room.

        Raises:
            StoreUnavailableError: the broker is away. Whether it was put aside is unknown then.
        """
        return await self._run("delay", tag, (self.layout.delayed,), (round(until_unix_s * 1000),))

    async def _run(self, name: str, tag: str, keys: Sequence[str], args: Sequence[Any]) -> bool:
        once = f"{self.base}:done:{tag}"
        return bool(await self.connection.run(SCRIPTS[name], [once, *keys], [self.base, tag, *args]))
