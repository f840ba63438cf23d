"""What a prediction's LM calls use and cost, from the start of its message's delivery to the commit of its result.

It is kept in a context variable, since the result backend, which stores it with the result, is called by Celery.
"""

from __future__ import annotations

from collections.abc import Container, Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import astuple
from typing import Any, cast

from snakepit_bridge.costs.usage import PICO_PER_USD, LMUsage, decode_by_profile, encode_by_profile

LM_USAGE = "lm_usage"
"""Header of a message that is sent again: what earlier deliveries of its prediction used, by LM profile."""

# More than one prediction can use. A header that has more would drown real amounts.
_MAX_PROFILES, _MAX_COUNT, _MAX_COST_PICO = 100, 10**10, 10_000 * PICO_PER_USD


class Spending:
    """What the LM calls of one prediction have used.

    Args:
        task_id: the prediction's task.
        earlier: what its earlier deliveries used, by LM profile.

    Attributes:
        program, session, token: what it runs; empty until it is bound to a revision.
    """

    def __init__(self, task_id: str, earlier: Mapping[str, LMUsage] | None = None) -> None:
        self.task_id = task_id
        self.program = self.session = self.token = ""
        self._by_profile = dict(earlier or {})
        self._is_closed = False

    def bind(self, program: str, session: str, token: str, profiles: Container[str] | None = None) -> None:
        """Set what the prediction runs; drop what earlier deliveries used of other profiles than these."""
        self.program, self.session, self.token = program, session, token
        if profiles is not None and self._by_profile:
            self._by_profile = {name: usage for name, usage in self._by_profile.items() if name in profiles}

    def add(self, profile: str, usage: LMUsage) -> None:
        """Add what a call used, unless the prediction has ended."""
        if not self._is_closed:
            self._by_profile[profile] = self._by_profile.get(profile, LMUsage()) + usage

    def close(self) -> Mapping[str, LMUsage]:
        """Return what the prediction used by LM profile; a call that ends later isn't counted, so that this stays."""
        self._is_closed = True
        return dict(self._by_profile)

    @property
    def by_profile(self) -> Mapping[str, LMUsage]:
        """What the calls have used so far, by LM profile."""
        return self._by_profile


_current: ContextVar[Spending | None] = ContextVar("dspex_spending", default=None)


@contextmanager
def track_spending(task_id: str, headers: Mapping[str, Any] | None = None) -> Generator[None]:
    """Have the calls within the block counted as those of one prediction.

    Args:
        task_id: the prediction's task.
        headers: of its message; they come from outside, so one that is malformed, or that has more than a prediction
            can use, counts as none.
    """
    token = _current.set(Spending(task_id, _read_header((headers or {}).get(LM_USAGE))))
    try:
        yield
    finally:
        _current.reset(token)


def _read_header(header: object) -> Mapping[str, LMUsage]:
    """Return what a header says; nothing if that can't be."""
    if not isinstance(header, Mapping) or len(cast("Mapping[Any, Any]", header)) > _MAX_PROFILES:
        return {}
    try:
        earlier = decode_by_profile(header)
    except ValueError:
        return {}
    return earlier if all(map(_is_possible, earlier.values())) else {}


def _is_possible(usage: LMUsage) -> bool:
    *counts, cost_pico = astuple(usage)
    return max(counts) <= _MAX_COUNT and cost_pico <= _MAX_COST_PICO


def find_spending(task_id: str) -> Spending | None:
    """Return what a task's calls have used so far, if it is the current prediction."""
    spending = _current.get()
    return spending if spending is not None and spending.task_id == task_id else None


def bind_spending(
    task_id: str, program: str, session: str, token: str, profiles: Container[str] | None = None
) -> Spending:
    """Return what a prediction uses, from now on under its program and revision, and of these LM profiles alone."""
    spending = find_spending(task_id) or Spending(task_id)
    spending.bind(program, session, token, profiles)
    return spending


def spending_headers(task_id: str) -> dict[str, Any]:
    """Return the header by which a prediction's next message counts on from here; none if nothing is used yet."""
    spending = find_spending(task_id)
    by_profile = {} if spending is None else spending.by_profile
    return {LM_USAGE: encode_by_profile(by_profile)} if by_profile else {}
