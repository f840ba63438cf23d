"""Server-sent events, closed if their reader is too slow."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from starlette.responses import StreamingResponse

_log = logging.getLogger(__name__)

EVENT_STREAM = "text/event-stream"


class EventStreamResponse(StreamingResponse):
    """Server-sent events, closed if the reader accepts no message for ``write_s`` seconds."""

    def __init__(self, events: AsyncGenerator[bytes], write_s: float) -> None:
        super().__init__(
            events, media_type=EVENT_STREAM, headers={"cache-control": "no-store", "x-accel-buffering": "no"}
        )
        self._events = events
        self._write_s = write_s

    async def stream_response(self, send: Any) -> None:
        async def bounded(message: Any) -> None:
            async with asyncio.timeout(self._write_s):
                await send(message)

        async with aclosing(self._events):
            try:
                await super().stream_response(bounded)
            except TimeoutError:
                _log.info("closed an event stream: its reader accepted nothing for %g s", self._write_s)
