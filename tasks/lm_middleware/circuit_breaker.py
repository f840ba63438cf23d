"""A circuit breaker per LM profile: opens after N failures in a row, half-opens after ``open_s``.

pybreaker keeps the state (closed, open, half-open) and the failure count. It can't wrap a call here: ``call()`` holds a
lock while the function runs, and its asynchronous form is tornado's. So each call acquires the circuit first and
records its outcome afterwards; pybreaker learns the outcome through a function that does nothing, or raises.
"""

from __future__ import annotations

import logging
import random
import time
from contextlib import suppress
from typing import Any

from dspy.lm15 import LM15Error, Response, TransportError
from pybreaker import STATE_CLOSED, STATE_OPEN, CircuitBreaker, CircuitBreakerListener

from snakepit_bridge.lm.policies import CircuitPolicy
from snakepit_bridge.lm.profiles import LMProfiles
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import OPEN_CIRCUITS
from tasks.errors import retryable_kind
from tasks.lm_middleware.middleware import CallNext, PredictionCall

_log = logging.getLogger(__name__)


_PROVIDER_FAILURES = frozenset({"server", "timeout", "transport"})
# Jitter of the retries, so that they don't all arrive at the moment that the circuit half-opens.
_JITTER = 0.25
_MIN_JITTER_S = 1.0
# When to retry while a probe is in flight.
_PROBE_RETRY_S = 1.0


class CircuitOpenError(TransportError):
    """The call was not made since the circuit is open. ``retry_after`` says when to retry."""

    default_code = "circuit_open"


class _Failed(Exception):
    """Raised within pybreaker to record a failure."""


class _StateLogger(CircuitBreakerListener):
    """Logs when a circuit opens and closes, and counts the open ones."""

    def state_change(self, cb: CircuitBreaker, old_state: Any, new_state: Any) -> None:
        labels = {"dspex.profile": str(cb.name)}
        if new_state.name == STATE_OPEN and old_state.name == STATE_CLOSED:
            TELEMETRY.meter.add(OPEN_CIRCUITS, 1, labels)
        elif new_state.name == STATE_CLOSED:
            TELEMETRY.meter.add(OPEN_CIRCUITS, -1, labels)
        if new_state.name == STATE_OPEN:
            _log.warning(
                "Circuit of LM profile '%s' opened after repeated failures; no calls for %g s",
                cb.name,
                cb.reset_timeout,
            )
        elif new_state.name == STATE_CLOSED:
            _log.warning("Circuit of LM profile '%s' closed; the provider answers again", cb.name)


class Circuit:
    """The circuit of one profile in one process. Lives on the home loop.

    Args:
        profile: name of the profile.
        policy: after how many failures it opens, and for how long.
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
        """Whether calls are allowed without restriction."""
        return self._breaker.current_state == STATE_CLOSED

    def acquire(self) -> None:
        """Allow a call, which must record its outcome or call ``release``.

        Raises:
            CircuitOpenError: the circuit is open, or a probe is in flight.
        """
        if self.is_closed:
            return
        remaining_s = self._open_until - time.monotonic()
        if remaining_s > 0 or self._probing:
            jitter_s = max(_MIN_JITTER_S, self._policy.open_s * _JITTER) if remaining_s > 0 else _PROBE_RETRY_S
            after = max(remaining_s, _PROBE_RETRY_S / 2) + random.uniform(
                0.0, min(jitter_s, self._policy.open_s or jitter_s)
            )
            raise CircuitOpenError(f"profile '{self._profile}' failed too often; it is left alone", retry_after=after)
        self._probing = True
        self._breaker.half_open()

    def record_success(self) -> None:
        """Record that a call was answered."""
        if not self.is_closed or self._breaker.fail_counter:
            self._record(failed=False)

    def record_failure(self) -> None:
        """Record a failure of the provider."""
        if self._policy.failures:
            self._record(failed=True)

    def release(self) -> None:
        """Record nothing: the call ended without an outcome, such as by cancellation."""
        if self._probing:
            self._probing = False
            self._open_until = 0.0
            self._breaker.open()

    def _record(self, *, failed: bool) -> None:
        if self._breaker.current_state == STATE_OPEN:
            return  # a call that started before the circuit opened
        with suppress(_Failed):
            self._breaker.call(_fail if failed else _nothing)
        self._probing = False
        if self._breaker.current_state == STATE_OPEN:
            self._open_until = time.monotonic() + self._policy.open_s


class CircuitBreakers:
    """Calls a profile only while its circuit allows it, and records the outcome. Lives on the home loop.

    Args:
        profiles: the LM profiles, with the circuit policy of each.
    """

    def __init__(self, profiles: LMProfiles) -> None:
        self._profiles = profiles
        self._circuits: dict[str, Circuit] = {}

    async def __call__(self, call: PredictionCall, call_next: CallNext) -> Response:
        """Return the response of the rest of the chain.

        Raises:
            CircuitOpenError: the circuit of the profile is open.
        """
        circuit = self._circuit(call.profile)
        circuit.acquire()
        try:
            response = await call_next(call)
        except LM15Error as exc:
            if retryable_kind(exc) in _PROVIDER_FAILURES:
                circuit.record_failure()
            else:
                circuit.record_success()
            raise
        except BaseException:
            circuit.release()
            raise
        circuit.record_success()
        call.scope.tally.answered_calls[call.profile] += 1
        return response

    def _circuit(self, profile: str) -> Circuit:
        circuit = self._circuits.get(profile)
        if circuit is None:
            circuit = self._circuits[profile] = Circuit(profile, self._profiles[profile].circuit)
        return circuit


def _nothing() -> None:
    return None


def _fail() -> None:
    raise _Failed
