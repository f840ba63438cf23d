"""Read a prediction's chunks with a timeout that never cancels a read in progress."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from snakepit_bridge.client.stream import ChunkStream, StreamChunk
from snakepit_bridge.process.home_loop import run_on_home_loop


class ChunkPump:
    """Reads one prediction's chunks from the gateway's event loop.

    Args:
        following: reads the chunks, on the home loop.
        draining: set once the gateway is shutting down.
    """

    def __init__(self, following: ChunkStream, draining: asyncio.Event) -> None:
        self._following = following
        self._draining = draining
        self._next: asyncio.Future[list[StreamChunk]] | None = None

    async def read(self, wait_s: float) -> Sequence[StreamChunk] | None:
        """Return the next chunks, an empty list once the prediction has ended, or None on a timeout or shutdown.

        Raises:
            StoreUnavailableError: Redis can't be reached.
        """
        if self._next is None:
            self._next = asyncio.ensure_future(run_on_home_loop(self._following.read()))
        draining = asyncio.ensure_future(self._draining.wait())
        try:
            await asyncio.wait([self._next, draining], timeout=wait_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            draining.cancel()
        if not self._next.done():
            return None
        finished, self._next = self._next, None
        return finished.result()

    async def aclose(self) -> None:
        """Cancel a read in progress and close the reader."""
        if self._next is not None:
            self._next.cancel()
            await asyncio.gather(self._next, return_exceptions=True)
        await run_on_home_loop(self._following.aclose())
