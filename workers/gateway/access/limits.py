"""What each grant may ask at a time, so that one client's haste or idleness costs the others nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from workers.gateway.access.authentication import Grant
from workers.gateway.errors import TooManyError
from workers.gateway.settings import GatewayLimits

_STREAM_AGAIN_S = 5.0


@dataclass(slots=True)
class _Used:
    room: float
    filled_at: float
    streams: int = 0


class GrantLimiter:
    """Counts the calls and streams of each grant.

    Args:
        limits: those of the gateway, where a grant has none of its own.
        clock: seconds that only grow.
    """

    def __init__(self, limits: GatewayLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._used: dict[str, _Used] = {}

    def call(self, grant: Grant, calls: int = 1) -> None:
        """Counts one call, or a batch as what it holds; a batch larger than the room is let in once there is some.

        Raises:
            TooManyError: the grant has had its calls of this second.
        """
        rate, used = self._rate(grant), self._of(grant)
        now = self._clock()
        used.room = min(max(1.0, rate), used.room + (now - used.filled_at) * rate)
        used.filled_at = now
        if used.room < 1:
            raise TooManyError("calls a second", rate, (1 - used.room) / rate)
        used.room -= calls

    @contextmanager
    def stream(self, grant: Grant) -> Generator[None]:
        """Counts a stream while it is open.

        Raises:
            TooManyError: the grant has as many open as it may.
        """
        most, used = grant.streams or self._limits.streams, self._of(grant)
        if used.streams >= most:
            raise TooManyError("streams", most, _STREAM_AGAIN_S)
        used.streams += 1
        try:
            yield
        finally:
            used.streams -= 1

    def _rate(self, grant: Grant) -> float:
        return grant.calls_per_s or self._limits.calls_per_s

    def _of(self, grant: Grant) -> _Used:
        if grant.name not in self._used:
            self._used[grant.name] = _Used(max(1.0, self._rate(grant)), self._clock())
        return self._used[grant.name]
