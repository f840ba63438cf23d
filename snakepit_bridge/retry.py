"""What becomes of an LM call that went wrong, as data: a profile holds it, and a session may change it."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Self

KINDS = ("rate_limit", "timeout", "server", "transport")
"""The kinds of failure that another try may mend. All others never are: a wrong key, no credit, a bad request."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How an LM call is tried again.

    Attributes:
        attempts: tries of one call in all, the first included.
        backoff_s: pause after the first failure; it doubles with each further one, with jitter.
        longest_s: the longest pause, whatever the provider asks for.
        in_place_s: pauses up to this are waited for where the task runs; after a longer one the broker brings it again,
            and it holds no slot meanwhile.
        on: the kinds of failure that are tried again.
    """

    attempts: int = 3
    backoff_s: float = 1.0
    longest_s: float = 60.0
    in_place_s: float = 2.0
    on: tuple[str, ...] = KINDS

    def __post_init__(self) -> None:
        _whole("attempts", self.attempts, 1)
        for name in ("backoff_s", "longest_s", "in_place_s"):
            _seconds(name, getattr(self, name))
        unknown = [kind for kind in self.on if kind not in KINDS]
        if unknown:
            raise ValueError(f"on: {', '.join(map(repr, unknown))} isn't one of {', '.join(KINDS)}")

    def changed(self, said: Mapping[str, Any]) -> Self:
        """Returns the policy with some fields changed, as a session's variable or a profile's table says them.

        Raises:
            ValueError: a field that there isn't, or a value that it can't have; says which.
        """
        known = [field.name for field in fields(self)]
        for name in said:
            if name not in known:
                raise ValueError(f"{name}: there is no such field; they are {', '.join(known)}")
        values = dict(said)
        if "on" in values:
            values["on"] = _kinds(values["on"])
        return replace(self, **values)

    def pause_s(self, tries: int, retry_after_s: float = 0.0) -> float:
        """Returns the seconds before the next try, after so many failed ones.

        Jitter lets those that failed together not return together; a provider's Retry-After is a lower bound.
        """
        backoff = self.backoff_s * 2.0 ** min(tries - 1, 30)
        return min(max(backoff * random.uniform(0.5, 1.5), retry_after_s * random.uniform(1.0, 1.1)), self.longest_s)


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
        _whole("failures", self.failures, 0)
        _seconds("open_s", self.open_s)


def _kinds(said: Any) -> tuple[str, ...]:
    if not isinstance(said, list | tuple) or not all(isinstance(kind, str) for kind in said):
        raise ValueError(f"on: it must be a list of {', '.join(KINDS)}; got {said!r}")
    return tuple(said)


def _whole(name: str, value: Any, low: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < low:
        raise ValueError(f"{name}: it must be a whole number from {low} on; got {value!r}")


def _seconds(name: str, value: Any) -> None:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if not number or not 0 <= value <= 86_400:
        raise ValueError(f"{name}: it must be seconds from 0 to 86400; got {value!r}")
