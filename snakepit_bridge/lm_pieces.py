"""The pieces of a streamed answer on their way from the provider to whoever reads them."""

from __future__ import annotations

import asyncio
from typing import Protocol

from dspy.lm15 import (
    AsyncResponseStream,
    Request,
    Response,
    StreamDeltaEvent,
    StreamEndEvent,
    StreamErrorEvent,
    StreamStartEvent,
)

from snakepit_bridge.lm_backends import Backend

StreamEvent = StreamStartEvent | StreamDeltaEvent | StreamEndEvent | StreamErrorEvent


class Pieces(Protocol):
    """Where the pieces of a streamed answer go as they come; ``any`` tells whether one has gone there."""

    any: bool

    async def __call__(self, event: StreamEvent) -> None: ...


class QueuedPieces:
    """The pieces of an answer on their way to their reader's loop; what surrounds the call may run on another one."""

    def __init__(self, reader: asyncio.AbstractEventLoop) -> None:
        self._reader = reader
        self.events: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
        self.any = False

    def end(self, asked: asyncio.Future[Response]) -> None:
        """Tells the reader that no more pieces come; one that has left doesn't want to know why."""
        self.events.put_nowait(None)
        if not asked.cancelled():
            asked.exception()

    async def __call__(self, event: StreamEvent) -> None:
        """Hands a piece on."""
        self.any = True
        if asyncio.get_running_loop() is self._reader:
            self.events.put_nowait(event)
        else:
            self._reader.call_soon_threadsafe(self.events.put_nowait, event)


async def answer_from(backend: Backend, request: Request, pieces: Pieces | None) -> Response:
    """Returns a backend's answer to one request; its pieces go where they are wanted, if they are."""
    if pieces is None:
        return await backend.complete(request)
    async with AsyncResponseStream(backend.stream(request), request) as stream:
        async for event in stream.events():
            await pieces(event)
        return await stream.response()
