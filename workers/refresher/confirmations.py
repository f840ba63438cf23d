"""Telling the store that Elixir still agrees: gathered from all sessions, since every look has one to send."""

from __future__ import annotations

from collections.abc import Mapping

from snakepit_bridge.exceptions import BridgeError, StaleTokenError
from snakepit_bridge.stores import Look, SnapshotStore
from workers.refresher.ledger import Ledger


class Confirmations:
    """What looks have confirmed since the last ``send``; of several looks at a session the latest counts.

    Args:
        store: where snapshots are kept.
        publisher: the name of the Elixir server.
    """

    def __init__(self, store: SnapshotStore, publisher: str) -> None:
        self._store = store
        self._publisher = publisher
        self._marks: dict[str, tuple[Ledger, float]] = {}

    def mark(self, ledger: Ledger, looked_at: float) -> None:
        """Notes that a look, begun at ``looked_at`` by the store's clock, found what the store holds."""
        self._marks[ledger.session] = (ledger, looked_at)

    async def send(self) -> None:
        """Sends what was noted.

        Raises:
            StoreUnavailableError: nothing is lost by that; the next looks are noted anew.
        """
        marks, self._marks = self._marks, {}
        ledgers = {session: ledger for session, (ledger, _) in marks.items()}
        looks = {session: look for session, (ledger, at) in marks.items() if (look := ledger.look(at)) is not None}
        refused = await self._moved(ledgers, looks)
        agreed = {session: look for session, look in looks.items() if session not in refused}
        if agreed:
            refused |= await self._store.confirm(agreed, publisher=self._publisher)
        for session, error in refused.items():
            # A publish of the ledger's own may have overtaken the confirmation.
            if looks[session] == ledgers[session].look(looks[session].looked_at):
                ledgers[session].refused(error)

    async def _moved(self, ledgers: Mapping[str, Ledger], looks: Mapping[str, Look]) -> dict[str, BridgeError]:
        """A store that lost the end of its log holds an older state, which no look has confirmed."""
        known = {session: ledgers[session].token for session in looks}
        heads = await self._store.heads(looks) if looks else {}
        found = {session: heads[session].token if session in heads else None for session in looks}
        return {
            session: StaleTokenError(session, str(token), str(found[session]))
            for session, token in known.items()
            if found[session] != token and ledgers[session].token == token
        }
