"""One call of a client: whose it is, and how long it may take."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field

from workers.gateway.access.authentication import Grant
from workers.gateway.errors import MalformedError

MOST, MOST_OF_AN_ID = 512, 128
"""The longest name and the longest id of a prediction, in characters."""

SHORTEST_S, LONGEST_S = 0.1, 86_400
"""How long a client may say that it waits."""


@dataclass(frozen=True, slots=True)
class ClientCall:
    """What an operation knows of who called it.

    Attributes:
        grant: what the caller may do.
        until: when the call ends, by ``time.monotonic``.
        draining: set once the gateway is being stopped.
    """

    grant: Grant
    until: float = math.inf
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def remaining_s(self) -> float:
        """Seconds that it may still take."""
        return max(0.0, self.until - time.monotonic())


def seconds(value: float, where: str) -> float:
    """Returns a request's seconds.

    Raises:
        MalformedError: they are below 0, or not finite.
    """
    if not (math.isfinite(value) and 0 <= value <= 1e9):
        raise MalformedError(where, f"it is a number of seconds, 0 or more; got {value}")
    return value


def named(text: str, where: str, most: int = MOST) -> str:
    """Returns a name that a request gives.

    Raises:
        MalformedError: it is empty or too long.
    """
    if not 0 < len(text) <= most:
        raise MalformedError(where, f"it is a name of 1 to {most} characters")
    return text
