"""What the store holds of one session, and how a look gets there: under the fence, on top of what is known to be there.

Every publish names the token that it builds on. So whatever happened to the store in between, a lost log or a dropped
session, is noticed before anything is changed on top of it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from snakepit_bridge.exceptions import FencedError, SessionNotFoundError, SessionOwnedElsewhereError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import Changes, Look, SnapshotStore
from snakepit_bridge.snapshots.snapshot import Heard
from snakepit_bridge.variables import Variable

_UNPUBLISHED = Token(0, 0)


class SessionPublisher:
    """One session's way to the store.

    Args:
        store: where snapshots are kept.
        session: the session.
        publisher: the name of the Elixir server, as the session's authority.
        author: who publishes, for the history.

    Attributes:
        variables: what the store holds.
        lost: whether another publisher has the session now.
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
        """The last token that is known; ``0.0`` for a session that nobody has published."""
        return self._token or _UNPUBLISHED

    def is_current(self, variables: Mapping[str, Variable]) -> bool:
        """Tells at once whether the store is known to hold this very object; a copy has to be compared."""
        return variables is self.variables and self.token != _UNPUBLISHED

    async def prepare(self) -> bool:
        """Makes sure that the fence is held and the store's content known; tells whether it was so already.

        Only a look that began afterwards may be published.

        Raises:
            SessionOwnedElsewhereError: the session is published by somebody else.
            StoreUnavailableError
        """
        async with self._lock:
            if self._fence is None:
                self._fence = await self._store.raise_fence(self.session, publisher=self._publisher)
            elif self._token is not None:
                return True
            await self._read()
            return False

    async def publish(self, variables: Mapping[str, Variable], looked_at: float, heard: Heard) -> Token | None:
        """Makes the store hold what a look found and returns the token; None if the ledger isn't ready.

        Args:
            variables: all of the session's.
            looked_at: when the look began, by the store's clock.
            heard: the sign of Elixir that it was.

        Raises:
            FencedError, SessionOwnedElsewhereError: another publisher has the session now.
            StaleTokenError: the store holds something else than was known.
            StoreUnavailableError: whether it was committed isn't known.
        """
        async with self._lock:
            if self._token is None:
                return None
            changes = diff_variables(self.variables, variables)
            # Unknown until the store has answered, so that a publish that is cut off is followed by a fresh read.
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
            except (FencedError, SessionOwnedElsewhereError):
                self.superseded = True
                raise
            self.variables = variables
            return self._token

    def build_confirmation(self, looked_at: float, heard: Heard) -> Look | None:
        """Return the confirmation that the store's content was still Elixir's; None if the ledger isn't ready."""
        if self._fence is None or self._token is None:
            return None
        return Look(self._fence, looked_at, self._token, heard)

    def handle_rejection(self, error: Exception) -> None:
        """Notes that a confirmation was refused."""
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
    """Returns the changes that turn one state into another."""
    changes: dict[str, Variable | None] = dict.fromkeys(held.keys() - wanted.keys())
    for name, variable in wanted.items():
        known = held.get(name)
        if known is not variable and known != variable:
            changes[name] = variable
    return changes
