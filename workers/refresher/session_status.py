"""The status of a followed session, for operators."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class SessionState(StrEnum):
    """The state of a followed session. In all but the first two, its last snapshot is kept and grows stale."""

    FOLLOWED = "followed"
    PARTIAL = "followed, except for variables that can't be read"
    STARTING = "not read yet"
    SETTLING = "missing variables; waiting for them"
    EMPTY = "empty in Elixir; waiting for variables"
    GONE = "gone from Elixir; waiting for it"
    UNREACHABLE = "unreachable: Elixir is unavailable"
    FAILING = "failing in Elixir"
    OUTDATED = "changed in the store; reading it again"
    STORE_UNAVAILABLE = "read, but the store is unavailable"
    OWNED_ELSEWHERE = "owned by another publisher"


@dataclass(slots=True)
class SessionStatus:
    """The status of one session.

    Attributes:
        session: the session's name.
        state: its state.
        problem: the text of the last error.
        unreadable: variables that can't be read: name to problem. The store keeps the last value of each.
        since: when it entered the state, in Unix seconds by this machine's clock.
        token: the last known token.
        watched: whether the server notifies of changes, so that polling is only a safeguard.
    """

    session: str
    state: SessionState = SessionState.STARTING
    problem: str = ""
    unreadable: Mapping[str, str] = field(default_factory=dict[str, str])
    since: float = 0.0
    token: str = "0.0"
    watched: bool = False
