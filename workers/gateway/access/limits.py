"""What each grant may ask at a time, so that one client's haste or idleness costs the others nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass

from workers.gateway.access.authentication import Grant
from workers.gateway.errors import TooManyError
from workers.gateway.settings import GatewayLimits

_STREAM_RETRY_AFTER_S = 5.0


@dataclass(slots=True)
class _Usage:
    tokens: float
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
        self._usage: dict[str, _Usage] = {}

    def count_call(self, grant: Grant, calls: int = 1) -> None:
        """Counts one call, or a batch as what it holds; a batch larger than the room is let in once there is some.

        Raises:
            TooManyError: the grant has had its calls of this second.
        """
        rate, used = self._rate(grant), self._usage_of(grant)
        now = self._clock()
        used.tokens = min(max(1.0, rate), used.tokens + (now - used.filled_at) * rate)
        used.filled_at = now
        if used.tokens < 1:
            raise TooManyError("calls a second", rate, (1 - used.tokens) / rate)
        used.tokens -= calls

    @contextmanager
    def count_stream(self, grant: Grant) -> Generator[None]:
        """Counts a stream while it is open.

        Raises:
            TooManyError: the grant has as many open as it may.
        """
        most, used = grant.streams or self._limits.streams, self._usage_of(grant)
        if used.streams >= most:
            raise TooManyError("streams", most, _STREAM_RETRY_AFTER_S)
        used.streams += 1
        try:
            yield
        finally:
            used.streams -= 1

    def _rate(self, grant: Grant) -> float:
        return grant.calls_per_s or self._limits.calls_per_s

    def _usage_of(self, grant: Grant) -> _Usage:
        if grant.name not in self._usage:
            self._usage[grant.name] = _Usage(max(1.0, self._rate(grant)), self._clock())
        return self._usage[grant.name]
