"""HTTP connections of clients that haven't shown a token: there are only so many, and the oldest makes room.

Whoever can open connections could else use up all there are, by requests that it never ends. A connection is a
newcomer's until a request of it has shown a token (or, where none is asked for, has come whole): an honest client's for
milliseconds. Newcomers have a number of their own, in all and for each address. Where one more comes, the one that
has been a newcomer for longest is closed: nobody is turned away for what others leave open.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle

Peer = tuple[str, int]


class Connections:
    """The connections of one server.

    Args:
        newcomers: how many newcomers there are at most; of one address, half as many.
        known: how many others there are at most; what comes beyond stays a newcomer.
    """

    def __init__(self, newcomers: int, known: int) -> None:
        self._max_newcomers = newcomers
        self._max_newcomers_per_address = max(1, newcomers // 2)
        self._max_known = known
        self._known: set[Peer] = set()
        # In the order of coming, in all and by address.
        self._newcomers: dict[Peer, asyncio.BaseTransport] = {}
        self._newcomers_by_address: dict[str, dict[Peer, None]] = {}

    def add(self, peer: Peer, transport: asyncio.BaseTransport) -> None:
        """Count a newcomer, and close another if there are too many now."""
        self._newcomers[peer] = transport
        own = self._newcomers_by_address.setdefault(peer[0], {})
        own[peer] = None
        if len(own) > self._max_newcomers_per_address:
            self._abort(next(iter(own)))
        elif len(self._newcomers) > self._max_newcomers:
            self._abort(next(iter(self._newcomers)))

    def trust(self, peer: Peer | None) -> None:
        """Count a connection among the known ones from here on: it may do what its client asks for."""
        if peer is not None and peer in self._newcomers and len(self._known) < self._max_known:
            self._forget(peer)
            self._known.add(peer)

    def remove(self, peer: Peer) -> None:
        """Count a connection no longer."""
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
    """Return uvicorn's protocol whose connections end when no request has come for so many seconds, or not whole.

    It is the slower of uvicorn's two, since the other takes headers without end.
    """

    class Bounded(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().connection_made(transport)
            self._answering: RequestResponseCycle | None = None
            self._looking = self.loop.call_later(read_s, self._look)
            if self.client is not None:
                connections.add(self.client, transport)

        def connection_lost(self, exc: Exception | None) -> None:
            self._looking.cancel()
            if self.client is not None:
                connections.remove(self.client)
            super().connection_lost(exc)

        def _look(self) -> None:
            """A connection that answers nothing, and didn't when it was last looked at, waits for a request in vain."""
            cycle: Any = self.cycle
            if cycle is self._answering and (cycle is None or cycle.response_complete):
                self.transport.close()
                return
            self._answering = cycle
            self._looking = self.loop.call_later(read_s, self._look)

    return Bounded
