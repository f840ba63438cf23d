"""The events of a streamed answer, from the provider to the reader."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any, Protocol, cast

import dspy
from dspy.lm15 import (
    AsyncResponseStream,
    Message,
    Request,
    Response,
    StreamAssemblyError,
    StreamDeltaEvent,
    StreamEndEvent,
    StreamErrorEvent,
    StreamStartEvent,
    Usage,
)

from snakepit_bridge.lm.backends import LMBackend
from snakepit_bridge.lm.failures import cut_off_error, find_refusal, malformed_reply_error, report_usage
from snakepit_bridge.protocol.json_values import repair_json, repair_text

StreamEvent = StreamStartEvent | StreamDeltaEvent | StreamEndEvent | StreamErrorEvent


class StreamSink(Protocol):
    """Receives the events of a streamed answer.

    Attributes:
        any: whether an event has been delivered that can't be taken back, so that the call can't be retried.
    """

    any: bool

    async def __call__(self, event: StreamEvent) -> None: ...

    def void(self) -> None:
        """Discard what was received: a retry streams the answer again."""
        ...


class StreamObserver(StreamSink, Protocol):
    """Receives the events of an answer that is streamed to an observer, while the caller gets it as a whole."""

    def ended(self, response: Response) -> None:
        """Receive the complete response."""
        ...


OBSERVER_SETTING = "dspex_pieces"
"""DSPy setting: a function from a request to the observer of its answer, or None.

Under DSPy's own streaming a program can do less: it doesn't retry an answer that it can't parse, and no call can be
retried. So DSPy doesn't see a stream, and gets each answer as a whole.
"""


def find_stream_observer(request: Request) -> StreamObserver | None:
    """Return the observer of the current call's answer; None if it has none."""
    follow = cast("Callable[[Request], StreamObserver | None] | None", dspy.settings.get(OBSERVER_SETTING))
    return None if follow is None else follow(request)


class StreamQueue:
    """Passes the events of an answer to the reader's event loop; the middleware may run on another one."""

    def __init__(self, reader: asyncio.AbstractEventLoop) -> None:
        self._reader = reader
        self.events: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
        self.any = False

    def finish(self, response: asyncio.Future[Response]) -> None:
        """End the stream; an error of the call is retrieved, since the reader may have left."""
        self.events.put_nowait(None)
        if not response.cancelled():
            response.exception()

    def void(self) -> None:
        """Do nothing: a call is only retried while no event has been delivered."""

    async def __call__(self, event: StreamEvent) -> None:
        """Pass an event to the reader."""
        self.any = True
        if asyncio.get_running_loop() is self._reader:
            self.events.put_nowait(event)
        else:
            self._reader.call_soon_threadsafe(self.events.put_nowait, event)


async def fetch_response(backend: LMBackend, request: Request, pieces: StreamSink | None) -> Response:
    """Return a backend's response to one request, streaming its events into the sink if there is one.

    Raises:
        lm15.LM15Error: the request failed.
    """
    try:
        response = await _complete(backend, request, pieces)
    except StreamAssemblyError as exc:
        if exc.part_index is not None:
            raise malformed_reply_error(exc.message) from exc
        partial = exc.partial
        error = cut_off_error((partial and partial.text) or "")
        raise (error if partial is None else report_usage(error, partial.usage)) from exc
    return _check_response(response)


async def _complete(backend: LMBackend, request: Request, pieces: StreamSink | None) -> Response:
    if pieces is None:
        return await backend.complete(request)
    async with AsyncResponseStream(backend.stream(request), request) as stream:
        async for event in stream.events():
            await pieces(event)
        response = await stream.response()
    if response.provider_data is None and response.usage == Usage() and not _has_content(response):
        raise cut_off_error()  # nothing but the end of the stream
    return response


def _has_content(response: Response) -> bool:
    return any(part.type != "text" or part.text for part in response.message.parts)


def _check_response(response: Response) -> Response:
    """Return a response with its text in valid Unicode.

    Raises:
        AnswerRefusedError: the response is a refusal, whose text is the message.
    """
    refusal = find_refusal(response)
    if refusal is not None:
        raise refusal
    parts = response.message.parts
    repaired = tuple(map(_repair_part, parts))
    if all(mended is other for mended, other in zip(repaired, parts, strict=True)):
        return response
    message = response.message
    return replace(response, message=Message(role=message.role, parts=repaired, continuation=message.continuation))


def _repair_part(part: Any) -> Any:
    text = getattr(part, "text", None)
    if isinstance(text, str):
        return part if (repaired := repair_text(text)) is text else replace(part, text=repaired)
    if part.type == "tool_call":
        return part if (repaired := repair_json(part.input)) == part.input else replace(part, input=repaired)
    return part
