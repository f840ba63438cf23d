"""Retry and circuit-breaker policies of LM calls. A profile declares them, and a session may change them."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

EngineName = Literal["auto", "lm15", "litellm"]
"""How a profile reaches its provider: DSPy's native client (``lm15``), litellm, or the native one where it can."""

FAILURE_KINDS = ("rate_limit", "timeout", "server", "transport")
"""Failures that are retried. All others never are: a wrong key, no credit, a bad request."""

DEFAULT_RETRY_S = 60.0
"""Seconds for which a call is retried if neither a policy nor a deadline limits it."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How LM calls are retried.

    Attributes:
        for_s: seconds for which a call is retried after its first failure. None retries until the prediction's
            deadline, or for a minute if it has none. A deadline always ends it.
        attempts: attempts of one call, including the first; None limits retries by time alone. Waiting while the
            circuit is open (see ``CircuitPolicy``) is no attempt.
        backoff_s: pause after the first failure; it doubles with each further one, with jitter.
        longest_s: longest backoff, even if the provider's Retry-After is longer.
        in_place_s: backoffs up to this are slept in the task; for a longer one the task is returned to the broker, so
            that it holds no slot meanwhile.
        on: the kinds of failure that are retried.
    """

    attempts: int | None = None
    backoff_s: float = 1.0
    longest_s: float = 60.0
    in_place_s: float = 2.0
    on: tuple[str, ...] = FAILURE_KINDS
    for_s: float | None = None

    def __post_init__(self) -> None:
        if self.attempts is not None:
            _check_integer("attempts", self.attempts, 1)
        if self.for_s is not None:
            _check_seconds("for_s", self.for_s)
        for name in ("backoff_s", "longest_s", "in_place_s"):
            _check_seconds(name, getattr(self, name))
        unknown = [kind for kind in self.on if kind not in FAILURE_KINDS]
        if unknown:
            raise ValueError(f"on: {', '.join(map(repr, unknown))} isn't one of {', '.join(FAILURE_KINDS)}")

    def with_changes(self, changes: Mapping[str, Any]) -> Self:
        """Return the policy with some fields changed, as given by a session's variable or a profile's table.

        Raises:
            ValueError: a field doesn't exist or its value is invalid; the message names it.
        """
        known = [field.name for field in fields(self)]
        for name in changes:
            if name not in known:
                raise ValueError(f"{name}: there is no such field; they are {', '.join(known)}")
        values = dict(changes)
        if "on" in values:
            values["on"] = _parse_kinds(values["on"])
        return replace(self, **values)

    def pause_s(self, tries: int, retry_after_s: float = 0.0) -> float:
        """Return the backoff in seconds before the next attempt, after ``tries`` failed ones.

        Jitter spreads the retries of calls that failed together; a provider's Retry-After is a lower bound.
        """
        backoff = self.backoff_s * 2.0 ** min(max(0, tries - 1), 30)
        requested_s = retry_after_s + random.uniform(0.0, max(0.1 * retry_after_s, min(self.backoff_s, retry_after_s)))
        return min(max(backoff * random.uniform(0.5, 1.5), requested_s), self.longest_s)

    def bound_s(self, left_s: float | None) -> float:
        """Return the seconds for which a call is retried.

        Args:
            left_s: seconds from its first failure until the prediction's deadline; None if it has none.
        """
        if self.for_s is None:
            return DEFAULT_RETRY_S if left_s is None else left_s
        return self.for_s if left_s is None else min(self.for_s, left_s)


@dataclass(frozen=True, slots=True)
class CircuitPolicy:
    """When a profile's circuit opens.

    Attributes:
        failures: consecutive failures (server, timeout, transport) that open the circuit in one process; 0 disables it.
        open_s: seconds for which the circuit rejects calls; after that it is half-open and one call probes.
    """

    failures: int = 20
    open_s: float = 15.0

    def __post_init__(self) -> None:
        _check_integer("failures", self.failures, 0)
        _check_seconds("open_s", self.open_s)


TierName = Literal["standard", "batch"]
"""How a profile's calls are answered: at once, or by a provider's batch within a day, at a lower price."""


@dataclass(frozen=True, slots=True)
class BatchPolicy:
    """How requests of a profile of the batch tier are put into batches.

    Attributes:
        wait_s: seconds for which the first request of a batch waits for others.
        poll_s: seconds between two looks at a running batch.
        max_requests: most requests of a batch, within the provider's own limit.
        max_bytes: most bytes of its requests, within the provider's own limit.
        tries: batches that a request is put into, if earlier ones expired or failed for it.
        send_timeout_s: seconds that sending a batch may take. One whose fate isn't known is sent again only after that.
    """

    wait_s: float = 60.0
    poll_s: float = 30.0
    max_requests: int = 50_000
    max_bytes: int = 100_000_000
    tries: int = 3
    send_timeout_s: float = 300.0

    def __post_init__(self) -> None:
        for name in ("wait_s", "poll_s", "send_timeout_s"):
            _check_seconds(name, getattr(self, name))
        for name in ("max_requests", "max_bytes", "tries"):
            _check_integer(name, getattr(self, name), 1)


def _parse_kinds(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list | tuple) or not all(isinstance(kind, str) for kind in value):
        raise ValueError(f"on: it must be a list of {', '.join(FAILURE_KINDS)}; got {value!r}")
    return tuple(value)


def _check_integer(name: str, value: Any, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name}: it must be a whole number from {low} on; got {value!r}")


def _check_seconds(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 86_400:
        raise ValueError(f"{name}: it must be seconds from 0 to 86400; got {value!r}")
