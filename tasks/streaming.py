"""Stream an answer to clients while the LM generates it: from LM stream events to chunks of output fields.

The program runs as it does without streaming and gets whole answers. Text that certainly belongs to an output field is
written to Redis by a background task. A failure here never fails the prediction.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

import dspy
from dspy.lm15 import Request, Response
from dspy.utils.callback import BaseCallback

from snakepit_bridge.client.stream import StreamChunk, encrypt_chunk
from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.lm.streaming import OBSERVER_SETTING, StreamEvent, StreamObserver
from snakepit_bridge.process.home_loop import get_home_loop
from snakepit_bridge.programs.bound import BoundProgram
from snakepit_bridge.protocol.json_values import SurrogateJoiner, repair_text
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.outages import retry_through_outages
from tasks.output_fields import ChatFields, FieldReader, JSONFields, Text, XMLFields

# How many entries of the stream are kept, and for how long, for slow or late readers.
_MAX_ENTRIES = 10_000
_TTL_S = 600
# How long the result of a prediction waits for its chunks to be written.
_WRITE_TIMEOUT_S = 60.0

_log = logging.getLogger(__name__)


class ChunkWriter:
    """Writes the chunks of one prediction in order, as fast as Redis accepts them. Lives on the home loop.

    Args:
        connection: the Redis that clients read from.
        key: the stream, and the channel that notifies of new entries.
        attempt: the attempt number of the chunks.
        cipher: encrypts their texts.
    """

    def __init__(self, connection: RedisConnection, key: str, attempt: int, cipher: Cipher = PLAIN) -> None:
        self._connection = connection
        self._key = key
        self._attempt = attempt
        self._cipher = cipher
        self._pending: list[StreamChunk] = []
        self._write_task: asyncio.Task[None] | None = None
        self._loss_logged = False
        self._name, self._written = uuid4().hex[:12], 0

    def put(self, piece: StreamChunk) -> None:
        """Add a chunk; pending chunks of one field are merged."""
        last = self._pending[-1] if self._pending else None
        if last is not None and not piece.replaced and replace(last, text="") == replace(piece, text=""):
            self._pending[-1] = replace(last, text=last.text + piece.text)
        else:
            self._pending.append(piece)
        if self._write_task is None or self._write_task.done():
            self._write_task = asyncio.create_task(self._write(), name="dspex-pieces")

    async def drain(self) -> None:
        """Wait until all chunks are written, or lost."""
        if self._write_task is not None:
            await asyncio.wait([self._write_task])

    async def _write(self) -> None:
        while self._pending:
            chunks, self._pending = self._pending, []
            try:
                commands = [*map(self._entry, chunks), ("EXPIRE", self._key, _TTL_S), ("PUBLISH", self._key, "")]
                # Retried unchanged after an outage: readers skip entries that were written twice.
                await retry_through_outages(partial(self._connection.send_each, commands), patience_s=_WRITE_TIMEOUT_S)
            except Exception as exc:  # noqa: BLE001 - readers still get the result with the whole answer
                if not self._loss_logged:
                    self._loss_logged = True
                    _log.warning("Chunks of a streamed answer are lost: %s", exc)

    def _entry(self, piece: StreamChunk) -> tuple[Any, ...]:
        self._written += 1
        text: str | bytes = repair_text(piece.text)
        if self._cipher.is_on:
            text = encrypt_chunk(self._cipher, self._key, self._name, self._written, text)
        fields = ("field", piece.field, "text", text, "predictor", piece.predictor)
        numbers = ("call", piece.call, "attempt", self._attempt)
        mark = ("replaced", 1) if piece.replaced else ()
        once = ("writer", self._name, "number", self._written)
        return ("XADD", self._key, "MAXLEN", "~", _MAX_ENTRIES, "*", *fields, *numbers, *once, *mark)


@contextmanager
def stream_chunks(bound: BoundProgram, writer: ChunkWriter) -> Generator[None]:
    """Stream the LM calls of a program within the block, and write the text of its output fields.

    A program that needs a fresh module for each call isn't streamed: its predictors are unknown.
    """
    if bound.is_stateful:
        yield
        return
    sink = _Sink(bound, writer)
    callbacks = [*dspy.settings.get("callbacks", []), sink]
    with dspy.context(callbacks=callbacks, **{OBSERVER_SETTING: _open_stream}):
        yield


class _Sink(BaseCallback):
    """A DSPy callback that tracks which predictor of a program makes an LM call, and numbers the answers."""

    def __init__(self, bound: BoundProgram, writer: ChunkWriter) -> None:
        self._writer = writer
        parts = bound.module.named_predictors()
        self._parts = {id(part): (name, names) for name, part in parts if (names := _find_text_fields(part))}
        self._calls = 0
        self._failed = False

    # DSPy swallows what a callback raises.

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Remember which predictor is running."""
        if isinstance(instance, dspy.Predict):
            known = self._parts.get(id(instance))
            _current_call.set(None if known is None else _Call(self, *known))

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        """Remember the format of the answer; DSPy may fall back to JSON."""
        call = _current_call.get()
        if call is not None:
            call.style = _choose_reader(instance)

    def on_adapter_parse_end(
        self, call_id: str, outputs: dict[str, Any] | None, exception: BaseException | None = None
    ) -> None:
        """Retract the chunks of answers that couldn't be parsed."""
        call = _current_call.get()
        if call is not None and exception is not None:
            call.retract()

    def next_call(self) -> int:
        """Return the number of the answer that begins now."""
        self._calls += 1
        return self._calls

    def put(self, piece: StreamChunk) -> None:
        """Pass a chunk to the writer."""
        self._writer.put(piece)

    def log_failure(self, exc: Exception) -> None:
        """Log once that an answer can't be streamed; the prediction continues."""
        if not self._failed:
            self._failed = True
            _log.warning("Can't stream an answer: %s", exc, exc_info=exc)


class _Call:
    """One call of a predictor, with its answers (mostly one)."""

    def __init__(self, sink: _Sink, predictor: str, names: tuple[str, ...]) -> None:
        self._sink = sink
        self._predictor = predictor
        self._names = names
        self._answers: list[_Answer] = []
        self.style: type[Any] = ChatFields

    def open_answer(self) -> StreamObserver:
        """Return the sink of one answer."""
        answer = _Answer(self._sink, self._predictor, self._names, self.style)
        self._answers.append(answer)
        return answer

    def retract(self) -> None:
        """Retract what was written: the program couldn't parse it."""
        answers, self._answers = self._answers, []
        for answer in answers:
            _call_on_home_loop(answer.void)


_current_call: ContextVar[_Call | None] = ContextVar("dspex_call_followed", default=None)
"""The predictor call of this context; the LM is called in it or in a copy, and the adapter parses in it."""


def _open_stream(request: Request) -> StreamObserver | None:
    call = _current_call.get()
    return None if call is None else call.open_answer()


class _Answer:
    """The chunks of one answer. Lives on the home loop."""

    any = False

    def __init__(self, sink: _Sink, predictor: str, names: tuple[str, ...], style: type[Any]) -> None:
        self._sink = sink
        self._predictor = predictor
        self._names = names
        self._style = style
        self._reset()

    def _reset(self) -> None:
        self._reader: FieldReader = self._style(self._names)
        self._halves = SurrogateJoiner()
        self._written: dict[str, SurrogateJoiner] = {}
        self._call = 0
        self._has_text = False

    async def __call__(self, event: StreamEvent) -> None:
        """Process an event of the answer's stream."""
        delta = getattr(event, "delta", None)
        if delta is not None and delta.type == "text" and delta.text:
            self._has_text = True
            self._guard(lambda: self._put(self._reader.feed(self._halves.feed(delta.text))))

    def ended(self, response: Response) -> None:
        """Write the rest of the answer, or all of it if it wasn't streamed."""
        _call_on_home_loop(self._guard, lambda: self._end(response))

    def void(self) -> None:
        """Retract what was written: another attempt follows."""
        self._guard(self._retract)
        self._reset()

    def _guard(self, act: Callable[[], None]) -> None:
        try:
            act()
        except Exception as exc:  # noqa: BLE001 - streaming must not cost an answer
            self._sink.log_failure(exc)

    def _end(self, response: Response) -> None:
        self._put(self._reader.feed(self._halves.flush() if self._has_text else (response.text or "")))
        self._put(self._reader.end())
        for name, halves in self._written.items():
            self._emit(name, halves.flush())

    def _retract(self) -> None:
        for name in self._written:
            self._sink.put(StreamChunk(name, "", self._predictor, self._call, replaced=True))

    def _put(self, texts: Iterable[Text]) -> None:
        for name, text in texts:
            self._emit(name, self._written.setdefault(name, SurrogateJoiner()).feed(text))

    def _emit(self, name: str, text: str) -> None:
        if text:
            self._call = self._call or self._sink.next_call()
            self._sink.put(StreamChunk(name, text, self._predictor, self._call))


def _call_on_home_loop(act: Callable[..., None], *args: Any) -> None:
    """Call a function on the home loop, at once if called from a loop; programs may run in threads."""
    if asyncio._get_running_loop() is not None:
        act(*args)
    else:
        get_home_loop().call_soon_threadsafe(act, *args)


def _choose_reader(adapter: Any) -> type[Any]:
    if isinstance(adapter, dspy.JSONAdapter):
        return JSONFields
    return XMLFields if isinstance(adapter, dspy.XMLAdapter) else ChatFields


def _find_text_fields(predictor: Any) -> tuple[str, ...]:
    """Return the names of the text fields; partial values of other types are useless."""
    fields = predictor.signature.output_fields
    return tuple(name for name, info in fields.items() if info.annotation is str)
