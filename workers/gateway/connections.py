"""HTTP connections that send nothing, or never the end of a request: they are closed, for there are only so many."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol, RequestResponseCycle


def bounded(read_s: float) -> type[H11Protocol]:
    """Returns uvicorn's protocol whose connections end when no request has come for so many seconds, or not whole.

    It is the slower of uvicorn's two, since the other takes headers without end.
    """

    class Bounded(H11Protocol):
        def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
            super().connection_made(transport)
            self._answering: RequestResponseCycle | None = None
            self._looking = self.loop.call_later(read_s, self._look)

        def connection_lost(self, exc: Exception | None) -> None:
            self._looking.cancel()
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
