"""What a prediction's LM calls use and cost, from the start of its message's delivery to the commit of its result.

It is kept in a context variable, since the result backend, which stores it with the result, is called by Celery.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from snakepit_bridge.costs.usage import LMUsage, decode_by_profile, encode_by_profile

LM_USAGE = "lm_usage"
"""Header of a message that is sent again: what earlier deliveries of its prediction used, by LM profile."""


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

    def bind(self, program: str, session: str, token: str) -> None:
        """Set what the prediction runs."""
        self.program, self.session, self.token = program, session, token

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
        headers: of its message; they come from outside, so a malformed one counts as none.
    """
    try:
        earlier = decode_by_profile((headers or {}).get(LM_USAGE) or {})
    except ValueError:
        earlier = {}
    token = _current.set(Spending(task_id, earlier))
    try:
        yield
    finally:
        _current.reset(token)


def find_spending(task_id: str) -> Spending | None:
    """Return what a task's calls have used so far, if it is the current prediction."""
    spending = _current.get()
    return spending if spending is not None and spending.task_id == task_id else None


def bind_spending(task_id: str, program: str, session: str, token: str) -> Spending:
    """Return what a prediction uses, from now on under its program and revision."""
    spending = find_spending(task_id) or Spending(task_id)
    spending.bind(program, session, token)
    return spending


def spending_headers(task_id: str) -> dict[str, Any]:
    """Return the header by which a prediction's next message counts on from here; none if nothing is used yet."""
    spending = find_spending(task_id)
    by_profile = {} if spending is None else spending.by_profile
    return {LM_USAGE: encode_by_profile(by_profile)} if by_profile else {}
