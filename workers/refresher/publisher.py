"""Publish the readings of one session to the store, under a fence and on top of the known token.

Every publish names the token that it builds on, so a store that lost its log or dropped the session in between rejects
it before anything changes.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from snakepit_bridge.exceptions import FencedError, SessionNotFoundError, SessionOwnedElsewhereError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import Changes, Confirmation, SnapshotStore
from snakepit_bridge.snapshots.snapshot import AuthoritySign
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import REVISIONS_PUBLISHED
from snakepit_bridge.variables import Variable

_UNPUBLISHED = Token(0, 0)


class SessionPublisher:
    """Publishes one session.

    Args:
        store: the snapshot store.
        session: the session's name.
        publisher: the name of the Elixir server, as the session's authority.
        author: recorded in the history as the author of each change.

    Attributes:
        variables: what the store is known to hold.
        superseded: whether another publisher has taken the session.
    """

    def __init__(self, store: SnapshotStore, session: str, publisher: str, author: str) -> None:
        self.session = session
        self.variables: Mapping[str, Variable] = {}
        self.superseded = False
        self._store = store
        self._publisher = publisher
        self._author = author
        self._fence: int | None = None
        self._token: Token | None = None
        self._lock = asyncio.Lock()

    @property
    def token(self) -> Token:
        """The last known token; ``0.0`` for a session that was never published."""
        return self._token or _UNPUBLISHED

    def is_current(self, variables: Mapping[str, Variable]) -> bool:
        """Check by identity whether these are the variables that the store holds; an equal copy has to be compared."""
        return variables is self.variables and self.token != _UNPUBLISHED

    async def prepare(self) -> bool:
        """Raise the fence and read the store's content, unless done before; return True if it was done before.

        Only a reading that began afterwards may be published.

        Raises:
            SessionOwnedElsewhereError: another publisher is the session's authority.
            StoreUnavailableError: Redis can't be reached.
        """
        async with self._lock:
            if self._fence is None:
                self._fence = await self._store.raise_fence(self.session, publisher=self._publisher)
            elif self._token is not None:
                return True
            await self._read()
            return False

    async def publish(self, variables: Mapping[str, Variable], looked_at: float, heard: AuthoritySign) -> Token | None:
        """Publish a reading and return its token, or None unless prepared.

        Args:
            variables: all variables of the session.
            looked_at: when the read began, by the store's clock.
            heard: proof that Elixir was reachable.

        Raises:
            FencedError: another refresher has raised the fence.
            SessionOwnedElsewhereError: another publisher is the session's authority.
            StaleTokenError: the store isn't at the known token.
            StoreUnavailableError: Redis can't be reached; the publish may or may not have been committed.
        """
        async with self._lock:
            if self._token is None:
                return None
            changes = diff_variables(self.variables, variables)
            # Unknown until the store has answered, so that a publish that is interrupted is followed by a fresh read.
            expected, self._token = self._token, None
            try:
                self._token = await self._store.publish(
                    self.session,
                    changes,
                    expected=expected,
                    fence=self._fence,
                    publisher=self._publisher,
                    author=self._author,
                    looked_at=looked_at,
                    heard=heard,
                )
            except Exception as exc:
                TELEMETRY.meter.add(REVISIONS_PUBLISHED, 1, {"error.type": type(exc).__name__})
                self.superseded = self.superseded or isinstance(exc, FencedError | SessionOwnedElsewhereError)
                raise
            TELEMETRY.meter.add(REVISIONS_PUBLISHED)
            self.variables = variables
            return self._token

    def build_confirmation(self, looked_at: float, heard: AuthoritySign) -> Confirmation | None:
        """Return the confirmation that the store's content is still Elixir's, or None unless prepared."""
        if self._fence is None or self._token is None:
            return None
        return Confirmation(self._fence, looked_at, self._token, heard)

    def handle_rejection(self, error: Exception) -> None:
        """Handle the rejection of a confirmation: the next round prepares again, or following ends if superseded."""
        if isinstance(error, FencedError | SessionOwnedElsewhereError):
            self.superseded = True
        else:
            self._token = None

    async def _read(self) -> None:
        try:
            snapshot = await self._store.read(self.session)
        except SessionNotFoundError:
            self._token, self.variables = _UNPUBLISHED, {}
        else:
            self._token, self.variables = snapshot.token, snapshot.variables


def diff_variables(held: Mapping[str, Variable], wanted: Mapping[str, Variable]) -> Changes:
    """Return the changes that turn one state into another."""
    changes: dict[str, Variable | None] = dict.fromkeys(held.keys() - wanted.keys())
    for name, variable in wanted.items():
        known = held.get(name)
        if known is not variable and known != variable:
            changes[name] = variable
    return changes
