"""The interface of snapshot stores, so that sessions behave alike on Redis and in memory.

A store keeps the variables of each session and enough history to restore past tokens. A publish is atomic: it is one
revision or none.
"""

from __future__ import annotations

import asyncio
import time
from abc import abstractmethod
from collections.abc import AsyncGenerator, Iterable, Mapping

from snakepit_bridge.audit.change_control import ChangeControl
from snakepit_bridge.exceptions import (
    BridgeError,
    ConfigurationError,
    SessionNotFoundError,
    StoreUnavailableError,
)
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.replication import Replication
from snakepit_bridge.snapshots.checks import Check
from snakepit_bridge.snapshots.labels import LabelStore
from snakepit_bridge.snapshots.records import (
    LATEST,
    STORE,
    Change,
    Changes,
    Confirmation,
    Head,
    Retention,
    RevisionRef,
)
from snakepit_bridge.snapshots.snapshot import AuthoritySign, Snapshot
from snakepit_bridge.snapshots.staging import StagingStore
from snakepit_bridge.snapshots.watch import Watch
from snakepit_bridge.variables import Variable

# Pause before an unreachable store is tried again.
_RECONNECT_DELAY_S = 0.1


class SnapshotStore(LabelStore, StagingStore):
    """The sessions of one store. Safe to use from several tasks, threads, event loops and forked children.

    Each change of a session is recorded in the audit trail of :attr:`change_control`. One of what a rule there protects
    is refused with ``ApprovalRequiredError``, unless its ``approval`` is the id of a request that was approved.
    """

    @property
    @abstractmethod
    def change_control(self) -> ChangeControl:
        """The audit trail, the rules that protect sessions and labels, and the requests that wait for approval."""

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
        heard: AuthoritySign | None = None,
        approval: str = "",
    ) -> Token:
        """Commit all changes as one revision and return its token, or the current token if nothing changes.

        Args:
            session: the session.
            changes: variables by name; None deletes one.
            replace: whether the changes are the whole state, so that all other variables are deleted.
            expected: publish only on top of this token; ``Token(0, 0)`` for a session that doesn't exist yet.
            fence: the result of ``raise_fence``, for a session with several publishers.
            publisher: name of the publisher; the first one becomes the session's authority.
            author: who requested the change, for the history.
            reason: why, for the history.
            age_s: seconds since the read of the values at the authority started.
            looked_at: the start of that read in Unix seconds by the store's clock (see ``Head.now``); it takes
                precedence over ``age_s``, since it stays correct while a publisher is suspended.
            heard: the authority's heartbeat; None for no limit of its silence.
            approval: the id of the request for it that was approved.

        Raises:
            SessionOwnedElsewhereError: another publisher is the authority.
            FencedError: the fence isn't the current one.
            StaleTokenError: the session isn't at ``expected``.
            ValidationError: a change isn't a variable of that name, or violates its constraints (not checked for an
                Elixir server's values).
            CheckFailedError: the new state fails a check of the session.
            ApprovalRequiredError: a rule protects the session.
            StoreUnavailableError: the store didn't reply; the changes are committed as a whole or not at all.
        """

    @abstractmethod
    async def read(self, session: str, have: Snapshot | None = None) -> Snapshot:
        """Return the current snapshot, in one round trip.

        Args:
            session: the session.
            have: a snapshot that the caller has, so that only changes are transferred.

        Raises:
            SessionNotFoundError: the session hasn't been published.
            StoreUnavailableError: the store is unreachable.
        """

    @abstractmethod
    async def confirm(self, looks: Mapping[str, Confirmation], *, publisher: str) -> dict[str, BridgeError]:
        """Update ``confirmed_at`` and ``heard`` of many sessions, and return the errors of rejected ones by session.

        Raises:
            StoreUnavailableError: the store is unreachable.
        """

    async def read_at(self, session: str, at: RevisionRef) -> Snapshot:
        """Return the snapshot at exactly this revision.

        Args:
            session: the session.
            at: its token, the token's text, a label or ``"latest"``.

        Raises:
            RevisionLostError: the revision was trimmed, or lost with an older epoch.
            RevisionNotReachedError: the revision hasn't been published.
            LabelNotFoundError: the label isn't set.
            ValueError: the text isn't a token.
            SessionNotFoundError: the session hasn't been published.
            StoreUnavailableError: the store is unreachable.
        """
        return await (self.read(session) if at == LATEST else self._read_at(session, await self.resolve(session, at)))

    async def diff(
        self, session: str, a: RevisionRef, b: RevisionRef = LATEST
    ) -> dict[str, tuple[Variable | None, Variable | None]]:
        """Return ``{name: (at a, at b)}`` of the differences between two revisions; None for a missing variable.

        Raises:
            BridgeError, ValueError: see ``read_at``.
        """
        older, newer = await asyncio.gather(self.read_at(session, a), self.read_at(session, b))
        return newer.diff(older)

    def with_durability(self, durability: str) -> SnapshotStore:
        """Return this store with commits that wait for replicas or disks, as :class:`Replication` reads it.

        Raises:
            ConfigurationError: this store has no replicas.
            ValueError: it isn't a durability.
        """
        if Replication.parse(durability).waits:
            raise ConfigurationError(f"{self!r} has no replicas. Use durability 'primary', or a store on Redis.")
        return self

    @abstractmethod
    async def keep(self, snapshot: Snapshot, seconds: float) -> None:
        """Keep a snapshot readable by its token for at least ``seconds``, even if it is trimmed or dropped.

        Free of cost if this process has kept it lately.

        Raises:
            StoreUnavailableError: the store is unreachable.
        """

    @abstractmethod
    async def history(self, session: str, limit: int = 20) -> list[Change]:
        """Return the latest changes, newest first.

        Raises:
            SessionNotFoundError: the session hasn't been published.
            StoreUnavailableError: the store is unreachable.
        """

    async def rollback(
        self,
        session: str,
        to: RevisionRef,
        *,
        expected: Token | None = None,
        fence: int | None = None,
        publisher: str = STORE,
        author: str = "",
        reason: str = "",
        approval: str = "",
    ) -> Token:
        """Commit the state at a past revision as a new one and return the new token.

        Raises:
            BridgeError, ValueError: see ``publish`` and ``read_at``.
        """
        token = await self.resolve(session, to)
        reason = reason or f"rollback to {to}"
        return await self._rollback(session, token, expected, fence, publisher, author, reason, approval)

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
        approval: str,
    ) -> Token: ...

    @abstractmethod
    async def declare_checks(
        self,
        session: str,
        checks: Mapping[str, Check | None],
        *,
        publisher: str = STORE,
        author: str = "",
        reason: str = "",
    ) -> None:
        """Declare checks that every later publish must pass, all or none of them; None removes one.

        Checks can be declared before the first publish.

        Raises:
            CheckFailedError: the current state fails one.
            SessionOwnedElsewhereError: another publisher is the authority.
            ValueError: one is neither a JSON schema nor the name of a function.
            StoreUnavailableError: the store is unreachable.
        """

    @abstractmethod
    async def checks(self, session: str) -> dict[str, Check]:
        """Return the session's checks by name.

        Raises:
            StoreUnavailableError: the store is unreachable.
        """

    @abstractmethod
    async def retain(self, session: str, retention: Retention | None, *, author: str = "", reason: str = "") -> None:
        """Set the retention of a session and trim its history; None restores the store's default.

        Raises:
            SessionNotFoundError: the session hasn't been published.
            StoreUnavailableError: the store is unreachable.
        """

    @abstractmethod
    async def retention(self, session: str) -> Retention | None:
        """Return the retention set by ``retain``, or None for the store's default.

        Raises:
            SessionNotFoundError: the session hasn't been published.
            StoreUnavailableError: the store is unreachable.
        """

    @abstractmethod
    async def raise_fence(self, session: str, *, publisher: str) -> int:
        """Return a fence above every earlier one; from now on only publishes with it are accepted.

        The session need not exist: its first publish then needs this fence.

        Raises:
            SessionOwnedElsewhereError: another publisher is the authority.
            StoreUnavailableError: the store is unreachable.
        """

    @abstractmethod
    async def heads(self, sessions: Iterable[str]) -> dict[str, Head]:
        """Return the heads of sessions by name, without those that haven't been published.

        Raises:
            StoreUnavailableError: the store is unreachable.
        """

    @abstractmethod
    async def sessions(self) -> dict[str, Head]:
        """Return the heads of all sessions by name."""

    async def staged_sessions(self) -> dict[str, Head]:
        """Return the heads of the sessions that have a rollout or experiments, by name.

        Raises:
            StoreUnavailableError: the store is unreachable.
        """
        return {name: head for name, head in (await self.sessions()).items() if head.is_staged}

    async def session_names(self) -> list[str]:
        """Return the names of all sessions, sorted; one that was just dropped may still be among them.

        Raises:
            StoreUnavailableError: the store is unreachable.
        """
        return sorted(await self.sessions())

    @abstractmethod
    def open_watch(self) -> Watch:
        """Return a watch without any sessions yet; it connects when it is entered."""

    async def watch(self, session: str, *, interval_s: float = 1.0, patience_s: float = 30.0) -> AsyncGenerator[Token]:
        """Yield the session's token and then each newer one; publishes in quick succession may be yielded as one.

        It survives lost notifications and restarts of the store.

        Args:
            session: the session.
            interval_s: seconds between two polls of the store without a notification.
            patience_s: seconds for which an unreachable store is retried.

        Raises:
            StoreUnavailableError: the store stayed unreachable for longer.
        """
        latest: Token | None = None
        reached_at = time.monotonic()
        while True:
            try:
                async with self.open_watch() as watch:
                    await watch.add([session])
                    while True:
                        token = await self._current_token(session)
                        reached_at = time.monotonic()
                        if token is not None and (latest is None or token > latest):
                            latest = token
                            yield token
                        await watch.moves(interval_s)
            except StoreUnavailableError:
                if time.monotonic() - reached_at > patience_s:
                    raise
                await asyncio.sleep(_RECONNECT_DELAY_S)

    async def _current_token(self, session: str) -> Token | None:
        try:
            return (await self.head(session)).token
        except SessionNotFoundError:
            return None

    @abstractmethod
    async def drop(self, session: str, *, author: str = "", reason: str = "", approval: str = "") -> None:
        """Delete a session and its history, if it exists.

        Raises:
            ApprovalRequiredError: a rule protects the session.
            StoreUnavailableError: the store is unreachable.
        """

    @abstractmethod
    async def aclose(self) -> None:
        """Close the connections of the running event loop. The next use opens new ones."""
