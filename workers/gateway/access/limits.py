"""Rate and stream limits per grant, so that one client can't exhaust the gateway for the others."""

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
    """A token bucket of calls and a count of open streams for each grant.

    Args:
        limits: the gateway's limits, for grants without their own.
        clock: monotonic seconds.
    """

    def __init__(self, limits: GatewayLimits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits
        self._clock = clock
        self._usage: dict[str, _Usage] = {}

    def count_call(self, grant: Grant, calls: int = 1) -> None:
        """Count a call, or a batch as the calls that it contains.

        A batch is admitted as soon as the bucket holds one token, and may leave it with a debt.

        Raises:
            TooManyError: the bucket is empty.
        """
        rate, usage = self._rate(grant), self._usage_of(grant)
        now = self._clock()
        usage.tokens = min(max(1.0, rate), usage.tokens + (now - usage.filled_at) * rate)
        usage.filled_at = now
        if usage.tokens < 1:
            raise TooManyError("calls per second", rate, (1 - usage.tokens) / rate)
        usage.tokens -= calls

    @contextmanager
    def count_stream(self, grant: Grant) -> Generator[None]:
        """Count a stream while it is open.

        Raises:
            TooManyError: the grant has its maximum of streams open.
        """
        limit, usage = grant.streams or self._limits.streams, self._usage_of(grant)
        if usage.streams >= limit:
            raise TooManyError("streams", limit, _STREAM_RETRY_AFTER_S)
        usage.streams += 1
        try:
            yield
        finally:
            usage.streams -= 1

    def _rate(self, grant: Grant) -> float:
        return grant.calls_per_s or self._limits.calls_per_s

    def _usage_of(self, grant: Grant) -> _Usage:
        if grant.name not in self._usage:
            self._usage[grant.name] = _Usage(max(1.0, self._rate(grant)), self._clock())
        return self._usage[grant.name]
