"""Telling the store that Elixir still agrees: gathered from all sessions, since every look has one to send."""

from __future__ import annotations

from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.snapshot import Heard
from workers.refresher.publisher import SessionPublisher


class PendingConfirmations:
    """What looks have confirmed since the last ``send``; of several looks at a session the latest counts.

    Args:
        store: where snapshots are kept.
        publisher: the name of the Elixir server.
    """

    def __init__(self, store: SnapshotStore, publisher: str) -> None:
        self._store = store
        self._publisher = publisher
        self._pending: dict[str, tuple[SessionPublisher, float, Heard]] = {}

    def add(self, ledger: SessionPublisher, looked_at: float, heard: Heard) -> None:
        """Note that a look, begun at ``looked_at`` by the store's clock, found what the store holds.

        Args:
            ledger: the session's.
            looked_at: 0 if the look found something that it isn't sure of, so that it confirms nothing.
            heard: the sign of Elixir that it was.
        """
        self._pending[ledger.session] = (ledger, looked_at, heard)

    async def send(self) -> None:
        """Sends what was noted.

        Raises:
            StoreUnavailableError: nothing is lost by that; the next looks are noted anew.
        """
        marks, self._pending = self._pending, {}
        found = {session: ledger.build_confirmation(at, heard) for session, (ledger, at, heard) in marks.items()}
        looks = {session: look for session, look in found.items() if look is not None}
        refused = await self._store.confirm(looks, publisher=self._publisher) if looks else {}
        for session, error in refused.items():
            # A publish of the ledger's own may have overtaken the confirmation.
            ledger, at, heard = marks[session]
            if looks[session] == ledger.build_confirmation(at, heard):
                ledger.handle_rejection(error)
