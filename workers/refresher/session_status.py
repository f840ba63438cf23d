"""How a followed session stands, for whoever looks after the fleet."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class SessionState(StrEnum):
    """How following a session goes. In every state but the first two its last snapshot is kept, and grows stale."""

    FOLLOWED = "followed"
    PARTIAL = "followed, but for variables that can't be read"
    STARTING = "not looked at yet"
    SETTLING = "missing variables, and waited for"
    EMPTY = "empty in Elixir, and waited for"
    GONE = "gone from Elixir, and waited for"
    UNREACHABLE = "out of reach, as Elixir is away"
    FAILING = "failing in Elixir"
    OUTDATED = "to be read anew from the store"
    STORE_UNAVAILABLE = "seen, but the store is away"
    OWNED_ELSEWHERE = "published by somebody else"


@dataclass(slots=True)
class SessionStatus:
    """One session.

    Attributes:
        session: its name.
        state: how it stands, and ``since`` when, in Unix seconds by this machine's clock.
        problem: the last error's text.
        unreadable: variables that can't be read, with the problem. The store keeps the last value of each.
        token: the last token that is known.
        watched: whether changes are told by the server, and not polled for.
    """

    session: str
    state: SessionState = SessionState.STARTING
    problem: str = ""
    unreadable: Mapping[str, str] = field(default_factory=dict[str, str])
    since: float = 0.0
    token: str = "0.0"
    watched: bool = False
