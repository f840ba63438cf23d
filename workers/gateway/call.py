"""The context of one client call, and checks of the fields that several requests have."""

from __future__ import annotations

import asyncio
import math
import time
from dataclasses import dataclass, field

from workers.gateway.access.authentication import Grant
from workers.gateway.errors import MalformedError

MAX_NAME_LENGTH, MAX_ID_LENGTH = 512, 128
"""The maximum length of a name and of a prediction's id, in characters."""

MIN_TIMEOUT_S, MAX_TIMEOUT_S = 0.1, 86_400
"""The range of the timeout that a client may declare."""

_ANSWER_MARGIN_S = 0.1


@dataclass(frozen=True, slots=True)
class ClientCall:
    """The context of a call, given to the operation.

    Attributes:
        grant: the caller's grant.
        ends_at: when the call times out, by ``time.monotonic``.
        draining: set once the gateway is shutting down.
    """

    grant: Grant
    ends_at: float = math.inf
    draining: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def remaining_s(self) -> float:
        """The seconds until the call times out."""
        return max(0.0, self.ends_at - time.monotonic())

    def bound_wait(self, wait_s: float) -> float:
        """Return how long to wait, so that the response reaches the client before the call times out."""
        return min(wait_s, max(0.0, self.remaining_s - _ANSWER_MARGIN_S))


def require_seconds(value: float, where: str) -> float:
    """Return a number of seconds from a request.

    Args:
        value: the number.
        where: the field that holds it, for the error.

    Raises:
        MalformedError: the number is negative, too large or not finite.
    """
    if not (math.isfinite(value) and 0 <= value <= 1e9):
        raise MalformedError(where, f"it must be a number of seconds, 0 or more; got {value}")
    return value


def require_name(text: str, where: str, max_length: int = MAX_NAME_LENGTH) -> str:
    """Return a name from a request.

    Args:
        text: the name.
        where: the field that holds it, for the error.
        max_length: its maximum length in characters.

    Raises:
        MalformedError: the name is empty or too long.
    """
    if not 0 < len(text) <= max_length:
        raise MalformedError(where, f"it must be a name of 1 to {max_length} characters")
    return text
