"""Confirm to the store that its snapshots are still what Elixir holds, in one batch for all sessions."""

from __future__ import annotations

from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.snapshot import AuthoritySign
from workers.refresher.publisher import SessionPublisher


class PendingConfirmations:
    """Confirmations since the last ``send``; a later one for the same session replaces the earlier.

    Args:
        store: the snapshot store.
        publisher: the name of the Elixir server.
    """

    def __init__(self, store: SnapshotStore, publisher: str) -> None:
        self._store = store
        self._publisher = publisher
        self._pending: dict[str, tuple[SessionPublisher, float, AuthoritySign]] = {}

    def add(self, publisher: SessionPublisher, looked_at: float, heard: AuthoritySign) -> None:
        """Add a confirmation that a read found what the store holds.

        Args:
            publisher: the session's publisher.
            looked_at: when the read began, by the store's clock; 0 if it is inconclusive and confirms nothing.
            heard: proof that Elixir was reachable.
        """
        self._pending[publisher.session] = (publisher, looked_at, heard)

    async def send(self) -> bool:
        """Send and discard the pending confirmations; return whether there were any.

        Raises:
            StoreUnavailableError: Redis can't be reached. Nothing is lost: the next reads confirm again.
        """
        pending, self._pending = self._pending, {}
        confirmations = {
            session: publisher.build_confirmation(at, heard) for session, (publisher, at, heard) in pending.items()
        }
        looks = {session: look for session, look in confirmations.items() if look is not None}
        if not looks:
            return False
        rejected = await self._store.confirm(looks, publisher=self._publisher)
        for session, error in rejected.items():
            # A publish of the same session may have overtaken the confirmation.
            publisher, at, heard = pending[session]
            if looks[session] == publisher.build_confirmation(at, heard):
                publisher.handle_rejection(error)
        return True
