"""When to read a session next: often if it changes or is in use, rarely if quiet, with backoff if reads fail."""

from __future__ import annotations

import random
import time
from functools import partial

boot_clock = partial(time.clock_gettime, getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))
"""Monotonic seconds, including suspension where the platform counts it: a reading's age must include it."""

_BACKOFF_FACTOR, _JITTER = 1.5, 0.1
_FIRST_RETRY_S = 0.1
# A slow server is busy answering for no more than this share of the time.
_MAX_LOAD = 0.25


class PollSchedule:
    """The polling intervals of one session, with a jitter of ten percent so that sessions don't align.

    Args:
        poll_s: the shortest interval in seconds, for sessions in use.
        poll_max_s: the longest interval in seconds.
    """

    def __init__(self, poll_s: float, poll_max_s: float) -> None:
        self._poll_s, self._poll_max_s = poll_s, poll_max_s
        self._interval_s = poll_s
        self._retry_s = _FIRST_RETRY_S

    def delay_after_read_s(self, *, busy: bool, watched: bool, took_s: float) -> float:
        """Return the seconds to wait after a successful read.

        Args:
            busy: whether the session changed or is in use.
            watched: whether the server notifies of changes, so that polling is only a safeguard.
            took_s: seconds that the read took.
        """
        self._retry_s = _FIRST_RETRY_S
        self._interval_s = self._poll_s if busy else min(self._interval_s * _BACKOFF_FACTOR, self._poll_max_s)
        interval_s = self._poll_max_s if watched else self._interval_s
        return _with_jitter(max(interval_s, took_s / _MAX_LOAD))

    def delay_after_failure_s(self) -> float:
        """Return the seconds to the next attempt: doubled after each failure, up to the longest interval."""
        retry_s, self._retry_s = self._retry_s, min(self._retry_s * 2, self._poll_max_s)
        return _with_jitter(retry_s)

    def longest_delay_s(self) -> float:
        """Return the longest interval in seconds."""
        return _with_jitter(self._poll_max_s)


def max_delay_s(poll_max_s: float, took_s: float) -> float:
    """Return the upper bound of ``PollSchedule.delay_after_read_s`` for a read that took so long."""
    return max(poll_max_s, took_s / _MAX_LOAD) * (1 + _JITTER)


def _with_jitter(seconds: float) -> float:
    return seconds * random.uniform(1 - _JITTER, 1 + _JITTER)
