"""What every snapshot store does, so that a session behaves alike on Redis and in memory.

A store keeps, per session, the variables at one token and enough history to give past tokens back. A publish is one
revision or none: nobody ever reads half of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.revision import Token
from snakepit_bridge.snapshot import Snapshot
from snakepit_bridge.variables import Variable
from snakepit_bridge.variables.codec import shown

STORE = "store"
"""The authority of a session that is published here, and not followed from an Elixir server."""

RETENTION = 1_000
"""How many revisions of a session can be read again by default."""

Changes = Mapping[str, Variable | None]
"""Variables by name; None stands for one that isn't there (any more)."""


@dataclass(frozen=True, slots=True)
class Head:
    """Where a session is, and who publishes it. ``confirmed_at`` is in Unix seconds by the store's clock."""

    token: Token
    authority: str
    fence: int
    confirmed_at: float


@dataclass(frozen=True, slots=True)
class Change:
    """One revision of a session's history: what it changed, and who did so when. ``at`` is in Unix seconds."""

    token: Token
    at: float
    author: str
    reason: str
    before: Changes
    after: Changes


class SnapshotStore(ABC):
    """The sessions of one store. Safe to use from several tasks, threads, event loops and, opened before, forks."""

    @abstractmethod
    async def publish(
        self,
        session: str,
        changes: Changes,
        *,
        replace: bool = False,
        expected: Token | None = None,
        fence: int | None = None,
        publisher: str = STORE,
        author: str = "",
        reason: str = "",
        age_s: float = 0.0,
    ) -> Token:
        """Commits all changes as one revision and returns its token; the current one if they change nothing.

        Args:
            changes: variables by name; None deletes one.
            replace: the changes are the whole state, so that every other variable goes.
            expected: publish only on top of this state; ``Token(0, 0)`` stands for a session that isn't there.
            fence: what ``raise_fence`` gave, for a session whose publishers take turns.
            publisher: who publishes; the first one is the session's authority from then on.
            author, reason: who asked for the change and why, for the history.
            age_s: seconds since the values began to be looked up at the authority.

        Raises:
            SessionOwnedElsewhereError: another publisher is the authority.
            FencedError: the fence isn't the current one.
            StaleTokenError: the session isn't at ``expected``.
            ValidationError: a change isn't a variable of that name.
            StoreUnavailableError: the store did not answer; the changes are committed wholly or not at all.
        """

    @abstractmethod
    async def read(self, session: str, have: Snapshot | None = None) -> Snapshot:
        """Returns the current snapshot; costs one round trip and, given what the caller has, only what changed.

        Raises:
            SessionNotFoundError, StoreUnavailableError
        """

    @abstractmethod
    async def read_at(self, session: str, token: Token) -> Snapshot:
        """Returns the snapshot at exactly this token.

        Raises:
            RevisionLost: it was trimmed, or went down with an older epoch.
            RevisionNotReached: it hasn't been published.
            SessionNotFoundError, StoreUnavailableError
        """

    @abstractmethod
    async def head(self, session: str) -> Head:
        """Returns where the session is.

        Raises:
            SessionNotFoundError, StoreUnavailableError
        """

    @abstractmethod
    async def history(self, session: str, limit: int = 20) -> list[Change]:
        """Returns the latest changes, newest first.

        Raises:
            SessionNotFoundError, StoreUnavailableError
        """

    @abstractmethod
    async def rollback(
        self,
        session: str,
        to: Token,
        *,
        expected: Token | None = None,
        fence: int | None = None,
        publisher: str = STORE,
        author: str = "",
        reason: str = "",
    ) -> Token:
        """Commits the state at a past token as a new revision and returns the new token.

        Raises:
            what ``publish`` and ``read_at`` raise.
        """

    @abstractmethod
    async def raise_fence(self, session: str, *, publisher: str) -> int:
        """Returns a fence above every earlier one; from here on only publishes that carry it are taken.

        The session need not exist: its first publish then takes this fence.

        Raises:
            SessionOwnedElsewhereError: another publisher is the authority.
            StoreUnavailableError
        """

    @abstractmethod
    async def sessions(self) -> dict[str, Head]:
        """Returns the head of every session by its name."""

    @abstractmethod
    async def drop(self, session: str) -> None:
        """Forgets a session and its history; one that isn't there is forgotten already."""

    @abstractmethod
    async def aclose(self) -> None:
        """Closes the connections of the running event loop. The store opens new ones if it is used again."""


def checked(changes: Changes) -> Changes:
    """Returns the changes if each is a variable under its own name, or None.

    Raises:
        ValidationError: the first one that isn't.
    """
    for name, variable in changes.items():
        if variable is None:
            continue
        if not isinstance(variable, Variable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValidationError(name, shown(variable), "a store takes variables, made by Variable.declare")
        if variable.name != name:
            raise ValidationError(name, f"the variable '{variable.name}'", "it must be published under its own name")
    return changes
