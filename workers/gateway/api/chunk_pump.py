"""Reading pieces for a stream that also has other things to look at: a read that is under way is never broken off."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from snakepit_bridge.client.stream import Following, StreamChunk
from snakepit_bridge.process.home_loop import run_home


class ChunkPump:
    """Reads one prediction's pieces from whichever loop the gateway runs on.

    Args:
        following: reads them, on the home loop.
        draining: set once the gateway is being stopped.
    """

    def __init__(self, following: Following, draining: asyncio.Event) -> None:
        self._following = following
        self._draining = draining
        self._next: asyncio.Future[list[StreamChunk]] | None = None

    async def read(self, wait_s: float) -> Sequence[StreamChunk] | None:
        """Return the next pieces, an empty list once the prediction has ended, None if none came in time or on a stop.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        if self._next is None:
            self._next = asyncio.ensure_future(run_home(self._following.next()))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait([self._next, draining], timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            draining.cancel()
        if not self._next.done():
            return None
        read, self._next = self._next, None
        return read.result()

    async def aclose(self) -> None:
        """Ends the reading."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await run_home(self._following.aclose())
