"""Limit the HTTP connections of clients that haven't authenticated, evicting the oldest.

Otherwise a client could exhaust the server with requests that it never completes. A connection is a newcomer until one
of its requests has presented a valid token or, if none is needed, has arrived completely, which takes a well-behaved
client milliseconds. The number of newcomers is limited, in total and per address. When the limit is exceeded, the
oldest newcomer is closed, so new clients are never rejected because of connections that others leave open.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

Peer = tuple[str, int]


class Connections:
    """The connections of one server.

    Args:
        newcomers: maximum number of newcomers; half as many per address.
        known: maximum number of other connections; those beyond it stay newcomers.
    """

    def __init__(self, newcomers: int, known: int) -> None:
        self._max_newcomers = newcomers
        self._max_newcomers_per_address = max(1, newcomers // 2)
        self._max_known = known
        self._known: set[Peer] = set()
        # In order of arrival, in total and by address.
        self._newcomers: dict[Peer, asyncio.BaseTransport] = {}
        self._newcomers_by_address: dict[str, dict[Peer, None]] = {}

    def add(self, peer: Peer, transport: asyncio.BaseTransport) -> None:
        """Add a newcomer, and close the oldest if there are too many now."""
        self._newcomers[peer] = transport
        own = self._newcomers_by_address.setdefault(peer[0], {})
        own[peer] = None
        if len(own) > self._max_newcomers_per_address:
            self._abort(next(iter(own)))
        elif len(self._newcomers) > self._max_newcomers:
            self._abort(next(iter(self._newcomers)))

    def trust(self, peer: Peer | None) -> None:
        """Move a connection from the newcomers to the known ones."""
        if peer is not None and peer in self._newcomers and len(self._known) < self._max_known:
            self._forget(peer)
            self._known.add(peer)

    def remove(self, peer: Peer) -> None:
        """Remove a closed connection."""
        self._known.discard(peer)
        self._forget(peer)

    def _abort(self, peer: Peer) -> None:
        transport: Any = self._newcomers[peer]
        self._forget(peer)
        transport.abort()

    def _forget(self, peer: Peer) -> None:
        self._newcomers.pop(peer, None)
        own = self._newcomers_by_address.get(peer[0], {})
        own.pop(peer, None)
        if not own:
            self._newcomers_by_address.pop(peer[0], None)


def build_protocol(read_s: float, connections: Connections) -> type[H11Protocol]:
    """Return a protocol for uvicorn that closes connections on which no complete request arrives within ``read_s``.

    It builds on h11, the slower of uvicorn's two, since the other accepts headers of unlimited size.
    """

    class BoundedProtocol(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().connection_made(transport)
            self._last_cycle: RequestResponseCycle | None = None
            self._timer = self.loop.call_later(read_s, self._close_if_idle)
            if self.client is not None:
                connections.add(self.client, transport)

        def connection_lost(self, exc: Exception | None) -> None:
            self._timer.cancel()
            if self.client is not None:
                connections.remove(self.client)
            super().connection_lost(exc)

        def _close_if_idle(self) -> None:
            # A connection that answers nothing now, and has begun no request since the last check, is idle.
            cycle: Any = self.cycle
            if cycle is self._last_cycle and (cycle is None or cycle.response_complete):
                self.transport.close()
                return
            self._last_cycle = cycle
            self._timer = self.loop.call_later(read_s, self._close_if_idle)

    return BoundedProtocol
