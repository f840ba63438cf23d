"""A circuit breaker per LM profile, so that a process leaves a broken provider alone and tries it again with one call.

pybreaker keeps the state (closed, open, half-open) and counts. It can't stand around a call here: ``call()`` holds a
lock while the function runs, and its asynchronous form is tornado's. So each call asks this class before it goes, and
tells it afterwards how it went; pybreaker is then told by a function that does nothing, or raises.
"""

from __future__ import annotations

import logging
import random
import time
from contextlib import suppress
from typing import Any

from dspy.lm15 import TransportError
from pybreaker import STATE_CLOSED, STATE_OPEN, CircuitBreaker, CircuitBreakerListener

from snakepit_bridge.lm.policies import CircuitPolicy

_log = logging.getLogger(__name__)


# How far those who wait for a profile are spread, so that they don't all come at the moment that it is tried again.
_JITTER = 0.25
_MIN_JITTER_S = 1.0
# How soon to ask after a probe that is under way.
_PROBE_RETRY_S = 1.0


class CircuitOpenError(TransportError):
    """A call that wasn't made: the profile failed too often. ``retry_after`` says when to come again."""

    default_code = "circuit_open"


class _Failed(Exception):
    """How pybreaker is told of a failure."""


class _StateLogger(CircuitBreakerListener):
    """Tells an operator when a profile is left alone, and when it is used again."""

    def state_change(self, cb: CircuitBreaker, old_state: Any, new_state: Any) -> None:
        if new_state.name == STATE_OPEN:
            _log.warning("LM profile '%s' failed too often; it is left alone for %g s", cb.name, cb.reset_timeout)
        elif new_state.name == STATE_CLOSED:
            _log.warning("LM profile '%s' answers again", cb.name)


class Circuit:
    """The circuit of one profile in one process. Lives on the home loop.

    Args:
        profile: its name.
        policy: when it opens, and for how long.
    """

    def __init__(self, profile: str, policy: CircuitPolicy) -> None:
        self._profile = profile
        self._policy = policy
        self._breaker = CircuitBreaker(
            fail_max=max(1, policy.failures),
            reset_timeout=policy.open_s,
            throw_new_error_on_trip=False,
            name=profile,
            listeners=(_StateLogger(),),
        )
        self._open_until = 0.0
        self._probing = False

    @property
    def is_closed(self) -> bool:
        """Whether calls go ahead as usual."""
        return self._breaker.current_state == STATE_CLOSED

    def acquire(self) -> None:
        """Lets a call go ahead; it must tell afterwards how it went.

        Raises:
            CircuitOpenError: it mustn't.
        """
        if self.is_closed:
            return
        left = self._open_until - time.monotonic()
        if left > 0 or self._probing:
            spread = max(_MIN_JITTER_S, self._policy.open_s * _JITTER) if left > 0 else _PROBE_RETRY_S
            after = max(left, _PROBE_RETRY_S / 2) + random.uniform(0.0, min(spread, self._policy.open_s or spread))
            raise CircuitOpenError(f"profile '{self._profile}' failed too often; it is left alone", retry_after=after)
        self._probing = True
        self._breaker.half_open()

    def record_success(self) -> None:
        """The call was answered."""
        if not self.is_closed or self._breaker.fail_counter:
            self._record(failed=False)

    def record_failure(self) -> None:
        """The call failed in a way that says the provider is broken."""
        if self._policy.failures:
            self._record(failed=True)

    def release(self) -> None:
        """The call ended without saying anything of the provider, such as by its caller's cancellation."""
        if self._probing:
            self._probing = False
            self._open_until = 0.0
            self._breaker.open()

    def _record(self, *, failed: bool) -> None:
        if self._breaker.current_state == STATE_OPEN:
            return  # a call from before it opened
        with suppress(_Failed):
            self._breaker.call(_fail if failed else _nothing)
        self._probing = False
        if self._breaker.current_state == STATE_OPEN:
            self._open_until = time.monotonic() + self._policy.open_s


def _nothing() -> None:
    return None


def _fail() -> None:
    raise _Failed
