"""One call of a client: whose it is, and how long it may take."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field

from workers.gateway.access.authentication import Grant
from workers.gateway.errors import MalformedError

MAX_NAME_LENGTH, MAX_ID_LENGTH = 512, 128
"""The longest name and the longest id of a prediction, in characters."""

MIN_TIMEOUT_S, MAX_TIMEOUT_S = 0.1, 86_400
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
    ends_at: float = math.inf
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def remaining_s(self) -> float:
        """Seconds that it may still take."""
        return max(0.0, self.ends_at - time.monotonic())


def require_seconds(value: float, where: str) -> float:
    """Returns a request's seconds.

    Raises:
        MalformedError: they are below 0, or not finite.
    """
    if not (math.isfinite(value) and 0 <= value <= 1e9):
        raise MalformedError(where, f"it is a number of seconds, 0 or more; got {value}")
    return value


def require_name(text: str, where: str, max_length: int = MAX_NAME_LENGTH) -> str:
    """Returns a name that a request gives.

    Raises:
        MalformedError: it is empty or too long.
    """
    if not 0 < len(text) <= max_length:
        raise MalformedError(where, f"it is a name of 1 to {max_length} characters")
    return text
