"""What becomes of an LM call that went wrong, as data: a profile holds it, and a session may change it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Self

EngineName = Literal["auto", "lm15", "litellm"]
"""How a profile reaches its provider: DSPy's native client (``lm15``), litellm, or the native one where it can."""

FAILURE_KINDS = ("rate_limit", "timeout", "server", "transport")
"""The kinds of failure that another try may mend. All others never are: a wrong key, no credit, a bad request."""

DEFAULT_RETRY_S = 60.0
"""Seconds for which a call is tried again, where neither a policy nor a deadline says."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How an LM call is tried again.

    Attributes:
        for_s: seconds for which a call is tried again, from its first failure on. None is until the prediction's
            deadline, or for a minute if it has none. A deadline ends it in any case.
        attempts: tries of one call in all, the first included; None sets no other bound than time does. Waiting for an
            LM that is left alone (see ``CircuitPolicy``) is no try.
        backoff_s: pause after the first failure; it doubles with each further one, with jitter.
        longest_s: the longest pause, whatever the provider asks for.
        in_place_s: pauses up to this are waited for where the task runs; after a longer one the broker brings it again,
            and it holds no slot meanwhile.
        on: the kinds of failure that are tried again.
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

    def changed(self, said: Mapping[str, Any]) -> Self:
        """Return the policy with some fields changed, as a session's variable or a profile's table says them.

        Raises:
            ValueError: a field that there isn't, or a value that it can't have; says which.
        """
        known = [field.name for field in fields(self)]
        for name in said:
            if name not in known:
                raise ValueError(f"{name}: there is no such field; they are {', '.join(known)}")
        values = dict(said)
        if "on" in values:
            values["on"] = _parse_kinds(values["on"])
        return replace(self, **values)

    def pause_s(self, tries: int, retry_after_s: float = 0.0) -> float:
        """Return the seconds before the next try, after so many failed ones.

        Jitter lets those that failed together not return together; a provider's Retry-After is a lower bound.
        """
        backoff = self.backoff_s * 2.0 ** min(max(0, tries - 1), 30)
        asked = retry_after_s + random.uniform(0.0, max(0.1 * retry_after_s, min(self.backoff_s, retry_after_s)))
        return min(max(backoff * random.uniform(0.5, 1.5), asked), self.longest_s)

    def bound_s(self, left_s: float | None) -> float:
        """Return the seconds for which a call is tried again.

        Args:
            left_s: seconds from its first failure until the prediction's deadline; None if it has none.
        """
        if self.for_s is None:
            return DEFAULT_RETRY_S if left_s is None else left_s
        return self.for_s if left_s is None else min(self.for_s, left_s)


@dataclass(frozen=True, slots=True)
class CircuitPolicy:
    """When a profile is left alone.

    Attributes:
        failures: failures in a row (server, timeout, transport) that open the circuit of one process; 0 never does.
        open_s: seconds for which its calls are refused then; after that one call is the probe for all.
    """

    failures: int = 20
    open_s: float = 15.0

    def __post_init__(self) -> None:
        _check_integer("failures", self.failures, 0)
        _check_seconds("open_s", self.open_s)


def _parse_kinds(said: Any) -> tuple[str, ...]:
    if not isinstance(said, list | tuple) or not all(isinstance(kind, str) for kind in said):
        raise ValueError(f"on: it must be a list of {', '.join(FAILURE_KINDS)}; got {said!r}")
    return tuple(said)


def _check_integer(name: str, value: Any, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name}: it must be a whole number from {low} on; got {value!r}")


def _check_seconds(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 86_400:
        raise ValueError(f"{name}: it must be seconds from 0 to 86400; got {value!r}")
