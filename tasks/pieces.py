"""Pieces of an answer while the LM writes it: from DSPy's chunks to what a client can follow.

DSPy's own `streamify` runs a program in another task and hands everything through one bounded queue, so that a slow
reader slows the program. Here the program stays where it is, its chunks go through DSPy's listeners, which know the
adapters' formats, and what comes out is written by a task of its own.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import dspy
from dspy.streaming import StreamListener

from snakepit_bridge.client.pieces import Piece
from snakepit_bridge.dspy_integration.calls import runs_natively
from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.programs.bound import BoundProgram
from snakepit_bridge.stores.connection import RedisConnection

# What a slow reader may fall behind by, and how long he may come late.
_ENTRIES = 10_000
_KEPT_S = 600

_log = logging.getLogger(__name__)


class PieceWriter:
    """Writes one prediction's pieces, in their order, as fast as Redis takes them. Lives on the home loop.

    Args:
        connection: the Redis that clients read them from.
        key: their stream, and the channel that says that there are more.
        attempt: the number that they carry.
    """

    def __init__(self, connection: RedisConnection, key: str, attempt: int) -> None:
        self._connection = connection
        self._key = key
        self._attempt = attempt
        self._pending: list[Piece] = []
        self._writing: asyncio.Task[None] | None = None

    def put(self, piece: Piece) -> None:
        """Adds a piece; what waits to be written grows together, field by field."""
        last = self._pending[-1] if self._pending else None
        if last is not None and replace(last, text="") == replace(piece, text=""):
            self._pending[-1] = replace(last, text=last.text + piece.text)
        else:
            self._pending.append(piece)
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write(), name="dspex-pieces")

    async def drain(self) -> None:
        """Returns once all is written."""
        if self._writing is not None:
            await self._writing

    async def _write(self) -> None:
        while self._pending:
            some, self._pending = self._pending, []
            try:
                await self._connection.send_each(
                    [*map(self._entry, some), ("EXPIRE", self._key, _KEPT_S), ("PUBLISH", self._key, "")]
                )
            except StoreUnavailableError as away:
                # Its reader gets the end all the same, and with it the whole answer.
                _log.warning("Pieces of an answer are lost to those who follow it: %s", away)

    def _entry(self, piece: Piece) -> tuple[Any, ...]:
        fields = ("field", piece.field, "text", piece.text, "predictor", piece.predictor)
        numbers = ("call", piece.call, "attempt", self._attempt)
        return ("XADD", self._key, "MAXLEN", "~", _ENTRIES, "*", *fields, *numbers)


@contextmanager
def streamed(bound: BoundProgram, writer: PieceWriter) -> Generator[None]:
    """Within it a program's LM calls are streamed, and the text of its output fields goes to the writer.

    One that runs in a thread isn't, as DSPy can't hand chunks out of it; nor is one whose calls can't share a module.
    """
    if bound.used_up or not runs_natively(type(bound.module)):
        yield
        return
    sink = _Sink(bound, writer)
    with dspy.context(send_stream=sink, stream_listeners=sink.wanted()):
        yield


@dataclass(slots=True)
class _Answer:
    """One LM answer that is being written: its number, and a listener for each text field."""

    call: int
    listeners: list[StreamListener]


class _Sink:
    """Stands where DSPy has the sending end of its queue."""

    def __init__(self, bound: BoundProgram, writer: PieceWriter) -> None:
        self._writer = writer
        self._predictors = {id(one): (name, one) for name, one in bound.module.named_predictors()}
        self._answers: dict[tuple[int, str], _Answer] = {}
        self._calls = 0

    def wanted(self) -> list[StreamListener]:
        """Listeners that name the predictors whose answers are wanted; DSPy asks no more of them."""
        return [listener for name, one in self._predictors.values() for listener in _listeners(name, one)]

    async def send(self, chunk: Any) -> None:
        """Takes a chunk of an LM's answer, or a status message, which is nobody's business here."""
        predictor = getattr(chunk, "predict_id", None)
        if predictor not in self._predictors:
            return
        key = (predictor, str(getattr(chunk, "id", "")))
        answer = self._answers.get(key)
        if answer is None:
            self._calls += 1
            answer = self._answers[key] = _Answer(self._calls, _listeners(*self._predictors[predictor]))
        for listener in answer.listeners:
            self._put(listener.receive(chunk), answer)
        if chunk.choices and chunk.choices[0].finish_reason is not None:
            for listener in answer.listeners:
                self._put(listener.finalize(), answer)
            del self._answers[key]

    def _put(self, said: Any, answer: _Answer) -> None:
        if said is not None and isinstance(said.chunk, str) and said.chunk:
            field, predictor = said.signature_field_name, said.predict_name
            self._writer.put(Piece(field, said.chunk, predictor, answer.call))


def _listeners(name: str, predictor: Any) -> list[StreamListener]:
    """One for each field that is text: of any other, half a value says nothing."""
    fields = predictor.signature.output_fields
    return [
        StreamListener(field, predict=predictor, predict_name=name)
        for field, info in fields.items()
        if info.annotation is str
    ]
