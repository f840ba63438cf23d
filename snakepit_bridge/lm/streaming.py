"""The pieces of a streamed answer on their way from the provider to whoever reads them."""

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
from snakepit_bridge.lm.failures import cut_off_error, find_refusal, malformed_reply_error
from snakepit_bridge.protocol.surrogates import valid_json, valid_text

StreamEvent = StreamStartEvent | StreamDeltaEvent | StreamEndEvent | StreamErrorEvent

_SETTING = "dspex_pieces"


class StreamSink(Protocol):
    """Where the pieces of a streamed answer go as they come.

    Attributes:
        any: whether one has gone where it can't be taken back, so that the call can't be tried again.
    """

    any: bool

    async def __call__(self, event: StreamEvent) -> None: ...

    def void(self) -> None:
        """Take back what has gone there: another try writes the answer anew."""
        ...


class FollowedPieces(StreamSink, Protocol):
    """Pieces that somebody follows beside the caller, who gets the answer whole."""

    def ended(self, response: Response) -> None:
        """Tell what the whole answer is, once there is one."""
        ...


FOLLOW = "dspex_pieces"
"""DSPy setting: given the request of an answer, where its pieces go beside the caller; None if nobody wants them.

With DSPy's own streaming, a program that is followed can do less than one that isn't: it asks no second time for an
answer that it can't parse, nor can a call be tried again. So DSPy is told of no stream, and gets each answer whole.
"""


def find_stream_observer(request: Request) -> FollowedPieces | None:
    """Return where the pieces of the current call's answer go; None if nobody follows it."""
    follow = cast("Callable[[Request], FollowedPieces | None] | None", dspy.settings.get(FOLLOW))
    return None if follow is None else follow(request)


class StreamQueue:
    """The pieces of an answer on their way to their reader's loop; what surrounds the call may run on another one."""

    def __init__(self, reader: asyncio.AbstractEventLoop) -> None:
        self._reader = reader
        self.events: asyncio.Queue[StreamEvent | None] = asyncio.Queue()
        self.any = False

    def finish(self, asked: asyncio.Future[Response]) -> None:
        """Tells the reader that no more pieces come; one that has left doesn't want to know why."""
        self.events.put_nowait(None)
        if not asked.cancelled():
            asked.exception()

    def void(self) -> None:
        """Do nothing: a call is only tried again while none has gone out."""

    async def __call__(self, event: StreamEvent) -> None:
        """Hand a piece on."""
        self.any = True
        if asyncio.get_running_loop() is self._reader:
            self.events.put_nowait(event)
        else:
            self._reader.call_soon_threadsafe(self.events.put_nowait, event)


async def fetch_response(backend: LMBackend, request: Request, pieces: StreamSink | None) -> Response:
    """Return a backend's answer to one request; its pieces go where they are wanted, if they are.

    Raises:
        lm15.LM15Error: there is none.
    """
    try:
        response = await _complete(backend, request, pieces)
    except StreamAssemblyError as exc:
        if exc.part_index is not None:
            raise malformed_reply_error(exc.message) from exc
        raise cut_off_error((exc.partial and exc.partial.text) or "") from exc
    return _check_response(response)


async def _complete(backend: LMBackend, request: Request, pieces: StreamSink | None) -> Response:
    if pieces is None:
        return await backend.complete(request)
    async with AsyncResponseStream(backend.stream(request), request) as stream:
        async for event in stream.events():
            await pieces(event)
        response = await stream.response()
    if response.provider_data is None and response.usage == Usage() and not _has_content(response):
        raise cut_off_error()  # nothing but the mark of the end
    return response


def _has_content(response: Response) -> bool:
    return any(part.type != "text" or part.text for part in response.message.parts)


def _check_response(response: Response) -> Response:
    """Return an answer in valid Unicode.

    Raises:
        AnswerRefused: it is none; the error says in what words.
    """
    refusal = find_refusal(response)
    if refusal is not None:
        raise refusal
    parts = response.message.parts
    made = tuple(map(_repair_part, parts))
    if all(one is other for one, other in zip(made, parts, strict=True)):
        return response
    message = response.message
    return replace(response, message=Message(role=message.role, parts=made, continuation=message.continuation))


def _repair_part(part: Any) -> Any:
    text = getattr(part, "text", None)
    if isinstance(text, str):
        return part if (made := valid_text(text)) is text else replace(part, text=made)
    if part.type == "tool_call":
        return part if (made := valid_json(part.input)) == part.input else replace(part, input=made)
    return part
