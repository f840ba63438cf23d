"""What every snapshot store does, so that a session behaves alike on Redis and in memory.

A store keeps, per session, the variables at one token and enough history to give past tokens back. A publish is one
revision or none: nobody ever reads half of it.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping

from snakepit_bridge.exceptions import BridgeError, LabelNotFoundError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import watch
from snakepit_bridge.snapshots.checks import Check
from snakepit_bridge.snapshots.records import (
    LATEST,
    STORE,
    At,
    Change,
    Changes,
    Head,
    Label,
    Look,
    Retention,
    as_token,
    label_name,
)
from snakepit_bridge.snapshots.snapshot import Heard, Snapshot
from snakepit_bridge.variables import Variable


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
        looked_at: float | None = None,
        heard: Heard | None = None,
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
            looked_at: the same as a time of the store's clock (see ``Head.now``), in Unix seconds; it wins over
                ``age_s``, since it stays true while a publisher is suspended.
            heard: the sign of the authority that the publish is; None sets no bound for the authority's silence.

        Raises:
            SessionOwnedElsewhereError: another publisher is the authority.
            FencedError: the fence isn't the current one.
            StaleTokenError: the session isn't at ``expected``.
            ValidationError: a change isn't a variable of that name, or breaks its own constraints. Those are left to
                the authority where that is an Elixir server.
            CheckFailedError: the values together break a check of the session.
            StoreUnavailableError: the store did not answer; the changes are committed wholly or not at all.
        """

    @abstractmethod
    async def read(self, session: str, have: Snapshot | None = None) -> Snapshot:
        """Returns the current snapshot; costs one round trip and, given what the caller has, only what changed.

        Raises:
            SessionNotFoundError, StoreUnavailableError
        """

    @abstractmethod
    async def confirm(self, looks: Mapping[str, Look], *, publisher: str) -> dict[str, BridgeError]:
        """Move ``confirmed_at`` and ``heard`` of many sessions together, and return the refused ones with the reason.

        Raises:
            StoreUnavailableError
        """

    async def read_at(self, session: str, at: At) -> Snapshot:
        """Returns the snapshot at exactly this revision.

        Args:
            at: its token, the token's text, a label or ``"latest"``.

        Raises:
            RevisionLostError: it was trimmed, or went down with an older epoch.
            RevisionNotReachedError: it hasn't been published.
            LabelNotFoundError: no label of that name is set.
            ValueError: the text isn't a token.
            SessionNotFoundError, StoreUnavailableError
        """
        return await (self.read(session) if at == LATEST else self._read_at(session, await self.resolve(session, at)))

    @abstractmethod
    async def _read_at(self, session: str, token: Token) -> Snapshot: ...

    async def resolve(self, session: str, at: At) -> Token:
        """Returns the token that a reference stands for now.

        Raises:
            LabelNotFoundError, SessionNotFoundError, StoreUnavailableError, ValueError: as in ``read_at``.
        """
        token = as_token(at)
        if token is not None:
            return token
        if at == LATEST:
            return (await self.head(session)).token
        labels = await self.labels(session)
        label = labels.get(str(at))
        if label is None:
            raise LabelNotFoundError(session, str(at), tuple(labels))
        return label.token

    async def diff(self, session: str, a: At, b: At = LATEST) -> dict[str, tuple[Variable | None, Variable | None]]:
        """Returns ``{name: (at a, at b)}`` of what differs between two revisions; None for what isn't there.

        Raises:
            what ``read_at`` raises.
        """
        older, newer = await asyncio.gather(self.read_at(session, a), self.read_at(session, b))
        return newer.diff(older)

    @abstractmethod
    async def keep(self, snapshot: Snapshot, seconds: float) -> None:
        """Keeps a snapshot readable by its token for at least so long, whatever is trimmed or dropped meanwhile.

        Costs nothing where this process has kept it lately.

        Raises:
            StoreUnavailableError
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

    async def rollback(
        self,
        session: str,
        to: At,
        *,
        expected: Token | None = None,
        fence: int | None = None,
        publisher: str = STORE,
        author: str = "",
        reason: str = "",
    ) -> Token:
        """Commits the state at a past revision as a new one and returns the new token.

        Raises:
            what ``publish`` and ``read_at`` raise.
        """
        token = await self.resolve(session, to)
        why = reason or f"rollback to {to}"
        return await self._rollback(session, token, expected, fence, publisher, author, why)

    @abstractmethod
    async def _rollback(
        self,
        session: str,
        to: Token,
        expected: Token | None,
        fence: int | None,
        publisher: str,
        author: str,
        reason: str,
    ) -> Token: ...

    async def label(
        self,
        session: str,
        name: str,
        at: At = LATEST,
        *,
        expected: Token | None = None,
        author: str = "",
        reason: str = "",
    ) -> Token:
        """Points a label at a revision, which stays readable for as long as it does, and returns the token.

        Args:
            expected: move the label only from this token; ``Token(0, 0)`` stands for a label that isn't set.

        Raises:
            LabelMovedError: the label isn't at ``expected``.
            ValueError: no label can have that name.
            what ``read_at`` raises.
        """
        label_name(name)
        return await self._label(session, name, await self.resolve(session, at), expected, author, reason)

    @abstractmethod
    async def _label(
        self, session: str, name: str, token: Token, expected: Token | None, author: str, reason: str
    ) -> Token: ...

    @abstractmethod
    async def unlabel(self, session: str, name: str) -> None:
        """Takes a label away; one that isn't set is away already.

        Raises:
            SessionNotFoundError, StoreUnavailableError
        """

    @abstractmethod
    async def labels(self, session: str) -> dict[str, Label]:
        """Returns the session's labels by name.

        Raises:
            SessionNotFoundError, StoreUnavailableError
        """

    @abstractmethod
    async def declare_checks(self, session: str, checks: Mapping[str, Check | None], *, publisher: str = STORE) -> None:
        """Makes every publish from here on obey these checks; None takes one away. All are declared, or none.

        A session can declare checks before its first publish.

        Raises:
            CheckFailedError: the present state breaks one.
            SessionOwnedElsewhereError: another publisher is the authority.
            ValueError: one is neither a JSON schema nor the name of a function.
            StoreUnavailableError
        """

    @abstractmethod
    async def checks(self, session: str) -> dict[str, Check]:
        """Returns the session's checks by name.

        Raises:
            StoreUnavailableError
        """

    @abstractmethod
    async def retain(self, session: str, retention: Retention | None) -> None:
        """Sets how much of a session is kept, and forgets the rest; None goes back to the store's default.

        Raises:
            SessionNotFoundError, StoreUnavailableError
        """

    @abstractmethod
    async def retention(self, session: str) -> Retention | None:
        """Returns what ``retain`` set, or None for the store's default.

        Raises:
            SessionNotFoundError, StoreUnavailableError
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
    async def heads(self, sessions: Iterable[str]) -> dict[str, Head]:
        """Returns where each of these sessions is, asked together; those that nobody has published are left out.

        Raises:
            StoreUnavailableError
        """

    @abstractmethod
    async def sessions(self) -> dict[str, Head]:
        """Returns the head of every session by its name."""

    @abstractmethod
    def open_watch(self) -> watch.Watch:
        """Returns a watch on sessions yet to be named; it connects when it is entered."""

    def watch(self, session: str, *, interval_s: float = 1.0, patience_s: float = 30.0) -> AsyncGenerator[Token]:
        """Returns an iterator of the session's token and each newer one, over lost hints and restarts of the store.

        Args:
            interval_s: seconds after which the store is looked at although it told nothing.
            patience_s: seconds for which a store that is away is tried again; then the iterator raises
                StoreUnavailableError.
        """
        return watch.tokens(self, session, interval_s=interval_s, patience_s=patience_s)

    async def watch_with(
        self,
        session: str,
        callback: Callable[[Token], Awaitable[None] | None],
        *,
        interval_s: float = 1.0,
        patience_s: float = 30.0,
    ) -> None:
        """Calls back, a coroutine function or a plain one, with each token of ``watch``; runs until it is cancelled.

        Raises:
            what the callback raises, and StoreUnavailableError as ``watch`` does.
        """
        await watch.call_each(self, session, callback, interval_s=interval_s, patience_s=patience_s)

    @abstractmethod
    async def drop(self, session: str) -> None:
        """Forgets a session and its history; one that isn't there is forgotten already."""

    @abstractmethod
    async def aclose(self) -> None:
        """Closes the connections of the running event loop. The store opens new ones if it is used again."""
