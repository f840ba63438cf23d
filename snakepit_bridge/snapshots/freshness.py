"""Terms: how old a snapshot a task accepts when the store or the session's authority is away, and what it was given."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from snakepit_bridge.snapshots.snapshot import Snapshot

_SERVE_STALE = re.compile(r"serve_stale(?:\(([^()]+)\)|=(.+))")


@dataclass(frozen=True, slots=True)
class OutagePolicy:
    """What becomes of a task that can't have a snapshot as fresh as it wants.

    The store is away, the session's authority is, or it hasn't confirmed the session for ``max_staleness_s``.
    ``max_age_s`` None fails it; a number lets it have the last one that the process holds, confirmed no longer than
    so many seconds ago.
    """

    max_age_s: float | None = None

    def __post_init__(self) -> None:
        if self.max_age_s is not None and not self.max_age_s >= 0:
            raise ValueError(f"serve_stale takes seconds from 0 on; got {self.max_age_s}")

    @classmethod
    def serve_stale(cls, max_age_s: float) -> Self:
        """Returns the contract that serves what is held if it is at most so many seconds old."""
        return cls(float(max_age_s))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads ``fail``, ``serve_stale(SECONDS)`` or ``serve_stale=SECONDS``.

        Raises:
            ValueError: the text is none of these.
        """
        if text == "fail":
            return cls()
        match = _SERVE_STALE.fullmatch(text)
        if match is None:
            raise ValueError(f"An outage contract reads fail or serve_stale(SECONDS); got {text!r}")
        return cls(float(match[1] or match[2]))

    def allows(self, age_s: float) -> bool:
        """Tells whether a snapshot that was confirmed so many seconds ago may be served."""
        return self.max_age_s is not None and age_s <= self.max_age_s

    def __str__(self) -> str:
        return "fail" if self.max_age_s is None else f"serve_stale({self.max_age_s:g})"


FAIL = OutagePolicy()


@dataclass(frozen=True, slots=True)
class FreshnessPolicy:
    """What a task accepts.

    Attributes:
        outage: what becomes of it when the store or the authority is away, or ``max_staleness_s`` is missed.
        max_staleness_s: seconds since the authority was last known to agree; None leaves it at the bound
            beyond which the authority counts as away.
    """

    outage: OutagePolicy = FAIL
    max_staleness_s: float | None = None

    @classmethod
    def of(
        cls, max_staleness: float | None = None, outage: str | OutagePolicy | None = None, default: OutagePolicy = FAIL
    ) -> Self:
        """Make terms of what a request says; where it names no contract, of the default one.

        Raises:
            ValueError: the outage contract can't be read, or the seconds are negative.
        """
        if max_staleness is not None and not max_staleness >= 0:
            raise ValueError(f"max_staleness is seconds from 0 on; got {max_staleness}")
        contract = default if outage is None else outage
        return cls(contract if isinstance(contract, OutagePolicy) else OutagePolicy.parse(contract), max_staleness)


@dataclass(frozen=True, slots=True)
class ServedSnapshot:
    """What a task was given.

    Attributes:
        snapshot: the snapshot.
        staleness_s: seconds since the session's authority was last known to agree with it.
        store_away: whether the store could not be asked, so that it comes from the process's memory.
        outage: whether it is older than the task wanted, and the outage contract let it pass.
    """

    snapshot: Snapshot
    staleness_s: float
    store_away: bool = False
    outage: bool = False
