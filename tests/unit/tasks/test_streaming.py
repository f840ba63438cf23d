"""What a worker writes of an answer that is followed: in order, together, and never at the prediction's expense."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from pydantic import SecretStr

from snakepit_bridge.client.stream import StreamChunk
from snakepit_bridge.dspy_integration.registry import ADAPTERS
from snakepit_bridge.lm.profiles import LMProfile
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.testing import AskedQuestion, Raw, RecordingLM, scripted
from tasks.streaming import ChunkWriter, stream_chunks


async def test_redis_that_stays_away_costs_the_pieces_and_not_the_prediction(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.streaming._WRITE_TIMEOUT_S", 0.3)
    writer = ChunkWriter(RedisConnection("redis://127.0.0.1:9/0", timeout_s=0.2), "pieces", 1)
    writer.put(StreamChunk("answer", "a"))
    with caplog.at_level(logging.WARNING):
        await writer.drain()
    assert "Chunks of a streamed answer are lost" in caplog.text


class Kept:
    """Stands for the writer."""

    def __init__(self) -> None:
        self.pieces: list[StreamChunk] = []

    def put(self, piece: StreamChunk) -> None:
        self.pieces.append(piece)

    def text(self, call: int = 1, field: str = "answer") -> str:
        return "".join(piece.text for piece in self.pieces if (piece.call, piece.field) == (call, field))


class Failing:
    """A writer that can't."""

    def put(self, piece: StreamChunk) -> None:
        raise UnicodeEncodeError("utf-8", "\ud83d", 0, 1, "surrogates not allowed")


def _current(ask: AskedQuestion) -> Any:
    return ANSWERS[0](ask)


@pytest.fixture(scope="module")
def server() -> Iterator[RecordingLM]:
    with RecordingLM(scripted(_current)) as lm:
        yield lm


Answer = Callable[[AskedQuestion], Any]
ANSWERS: list[Answer] = [lambda ask: {"answer": "forty-two [[or so]]"}]


@pytest.fixture
def answers(server: RecordingLM) -> Iterator[list[Answer]]:
    usual = ANSWERS[0]
    yield ANSWERS
    ANSWERS[0] = usual
    server.faults.clear()
    server.clear()


async def run(server: RecordingLM, module: Any, writer: Any, adapter: str = "chat", **inputs: str) -> dspy.Prediction:
    """Run a module as the fleet does: on the home loop, or in a thread if it has no coroutine of its own."""
    lm = LMProfile("demo", "openai/demo", server.url, SecretStr("key-of-pieces")).build()
    bound: Any = SimpleNamespace(module=module, is_stateful=False)

    async def followed() -> dspy.Prediction:
        settings = {"lm": lm, "adapter": ADAPTERS.find(adapter, "adapter"), "disable_history": True}
        with dspy.context(**settings), stream_chunks(bound, writer):
            return await module.acall(**(inputs or {"question": "why?"}))

    return await run_on_home_loop(followed())


@pytest.mark.parametrize("size", [1, 3, 7, None])
@pytest.mark.parametrize("adapter", ["chat", "json", "xml"])
async def test_each_adapters_answer_comes_in_pieces(
    server: RecordingLM, answers: list[Answer], adapter: str, size: int | None
) -> None:
    """With marks of the form in its text, whatever the size of the pieces."""
    server.pace(size)
    kept = Kept()
    prediction = await run(server, dspy.Predict("question -> answer"), kept, adapter)
    assert kept.text() == prediction.answer == "forty-two [[or so]]"
    assert not any(piece.replaced for piece in kept.pieces)


async def test_calls_of_a_program_are_numbered_and_told_apart_even_at_the_same_time(
    server: RecordingLM, answers: list[Answer]
) -> None:
    answers[0] = lambda ask: {"answer": f"answer of {ask.inputs['question']} {'x' * 50}"}
    server.pace(5, 0.001)

    class Both(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = dspy.Predict("question -> answer"), dspy.Predict("question -> answer")

        async def aforward(self, question: str) -> dspy.Prediction:
            await asyncio.gather(self.first.acall(question="one"), self.second.acall(question="two"))
            return await self.first.acall(question="three")

    kept = Kept()
    await run(server, Both(), kept)
    texts = {(piece.predictor, piece.call): kept.text(piece.call) for piece in kept.pieces}
    by_part = sorted((name, text.split()[2]) for (name, _), text in texts.items())
    assert by_part == [("first", "one"), ("first", "three"), ("second", "two")]
    assert kept.text(3).startswith("answer of three")


async def test_a_program_that_runs_in_a_thread_comes_in_pieces(server: RecordingLM, answers: list[Answer]) -> None:
    class Blocking(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.part = dspy.Predict("question -> answer")

        def forward(self, question: str) -> dspy.Prediction:
            return self.part(question=question)

    module, kept = Blocking(), Kept()
    lm = LMProfile("demo", "openai/demo", server.url, SecretStr("key-of-pieces")).build()
    bound: Any = SimpleNamespace(module=module, is_stateful=False)

    def blocking() -> dspy.Prediction:
        with dspy.context(lm=lm, disable_history=True), stream_chunks(bound, kept):  # pyright: ignore[reportArgumentType]
            return module(question="why?")

    prediction = await asyncio.to_thread(blocking)
    assert kept.text() == prediction.answer == "forty-two [[or so]]"


async def test_an_answer_that_cannot_be_parsed_is_taken_back_and_the_next_one_comes_in_its_place(
    server: RecordingLM, answers: list[Answer]
) -> None:
    """Streamed as unstreamed, DSPy's chat adapter asks once more in JSON."""
    turns = iter([Raw("[[ ## answer ## ]]\nhalf of"), {"answer": "whole", "reasoning": "because"}])
    answers[0] = lambda ask: next(turns)
    kept = Kept()
    prediction = await run(server, dspy.Predict("question -> answer, reasoning"), kept)
    assert (prediction.answer, prediction.reasoning) == ("whole", "because")
    assert [(piece.call, piece.field, piece.replaced) for piece in kept.pieces if piece.replaced] == [
        (1, "answer", True)
    ]
    assert (kept.text(1), kept.text(2), kept.text(2, "reasoning")) == ("half of", "whole", "because")
    assert kept.pieces.index(StreamChunk("answer", "", "self", 1, replaced=True)) < min(
        place for place, piece in enumerate(kept.pieces) if piece.call == 2
    )


async def test_halves_of_a_character_are_joined(server: RecordingLM, answers: list[Answer]) -> None:
    """A server may cut between the two halves of what JSON writes as a pair."""
    chunks = ["[[ ## answer ## ]]\\nok \\ud83d", "\\ude00 and \\ud83d", " alone \\ud83d"]
    events = [
        f'{{"choices": [{{"index": 0, "delta": {{"content": "{text}"}}, "finish_reason": null}}]}}' for text in chunks
    ]
    events.append('{"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]}')
    server.say("".join(f"data: {event}\n\n" for event in [*events, "[DONE]"]), content_type="text/event-stream")
    kept = Kept()
    prediction = await run(server, dspy.Predict("question -> answer"), kept)
    assert kept.text() == prediction.answer == "ok 😀 and \ufffd alone \ufffd"


async def test_a_writer_that_fails_costs_the_pieces_and_not_the_prediction(
    server: RecordingLM, answers: list[Answer], caplog: pytest.LogCaptureFixture
) -> None:
    prediction = await run(server, dspy.ChainOfThought("question -> answer"), Failing())
    assert prediction.answer == "forty-two [[or so]]"
    assert caplog.text.count("Can't stream an answer") == 1


async def test_what_stands_in_for_a_stream_comes_as_one_piece(server: RecordingLM, answers: list[Answer]) -> None:
    """A whole JSON answer to a request for a stream is the answer."""
    text = json.dumps("[[ ## answer ## ]]\nwhole\n\n[[ ## completed ## ]]")
    server.say(f'{{"choices": [{{"index": 0, "message": {{"content": {text}}}, "finish_reason": "stop"}}]}}')
    kept = Kept()
    prediction = await run(server, dspy.Predict("question -> answer"), kept)
    assert kept.text() == prediction.answer == "whole"


async def test_what_cannot_be_streamed_is_not(server: RecordingLM, answers: list[Answer]) -> None:
    module = dspy.Predict("question -> answer")
    used_up: Any = SimpleNamespace(module=module, is_stateful=True)
    lm = LMProfile("demo", "openai/demo", server.url, SecretStr("key-of-pieces")).build()
    with dspy.context(lm=lm), stream_chunks(used_up, Kept()):  # pyright: ignore[reportArgumentType]
        await module.acall(question="why?")
    assert "stream" not in server.requests[-1].body


async def test_fields_that_are_no_text_have_no_pieces(server: RecordingLM, answers: list[Answer]) -> None:
    answers[0] = lambda ask: {"count": 7}
    kept = Kept()
    await run(server, dspy.Predict("question -> count: int"), kept)
    assert kept.pieces == []
