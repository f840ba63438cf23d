"""When to look again: often at sessions that change or are in use, seldom at quiet ones, slower at failing ones."""

from __future__ import annotations

import random
import time
from functools import partial

boot_clock = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Seconds of this machine's clock that counts suspension, where it has one: a look's age must include it."""

_BACKOFF_FACTOR, _JITTER = 1.5, 0.1
_FIRST_RETRY_S = 0.1
# A server that takes long to answer isn't asked for more than this share of the time.
_MAX_LOAD = 0.25


class PollSchedule:
    """The intervals of one session. No two sessions keep step: each interval is varied by a tenth.

    Args:
        poll_s: the shortest interval, for sessions in use.
        poll_max_s: the longest.
    """

    def __init__(self, poll_s: float, poll_max_s: float) -> None:
        self._poll_s, self._poll_max_s = poll_s, poll_max_s
        self._interval_s = poll_s
        self._retry_s = _FIRST_RETRY_S

    def delay_after_read_s(self, *, busy: bool, watched: bool, took_s: float) -> float:
        """Returns seconds to the next look after one that took so long.

        Args:
            busy: the session changed or is in use.
            watched: changes are told, so that looks only make sure.
            took_s: how long the look took.
        """
        self._retry_s = _FIRST_RETRY_S
        self._interval_s = self._poll_s if busy else min(self._interval_s * _BACKOFF_FACTOR, self._poll_max_s)
        interval = self._poll_max_s if watched else self._interval_s
        return _with_jitter(max(interval, took_s / _MAX_LOAD))

    def delay_after_failure_s(self) -> float:
        """Returns seconds to the next try: twice as long after each failure, up to the longest interval."""
        retry, self._retry_s = self._retry_s, min(self._retry_s * 2, self._poll_max_s)
        return _with_jitter(retry)

    def longest_delay_s(self) -> float:
        """Returns the longest interval."""
        return _with_jitter(self._poll_max_s)


def max_delay_s(poll_max_s: float, took_s: float) -> float:
    """Return the longest that ``Pace.after_look`` answers for a look that took so long."""
    return max(poll_max_s, took_s / _MAX_LOAD) * (1 + _JITTER)


def _with_jitter(seconds: float) -> float:
    return seconds * random.uniform(1 - _JITTER, 1 + _JITTER)
