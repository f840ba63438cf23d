"""What a worker writes of an answer that is followed: in order, together, and never at the prediction's expense."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.client.pieces import Piece
from snakepit_bridge.dspy_integration.named import ADAPTERS
from snakepit_bridge.stores.connection import RedisConnection
from tasks.pieces import PieceWriter, streamed


def written(url: str) -> list[tuple[str, str, str, str]]:
    with Redis.from_url(url, decode_responses=True) as client:
        entries: Any = client.xrange("pieces")
        return [(said["field"], said["text"], said["call"], said["attempt"]) for _, said in entries]


async def test_pieces_are_written_in_order_and_grow_together_while_they_wait(redis_url: str) -> None:
    writer = PieceWriter(RedisConnection(redis_url), "pieces", 3)
    for text in ("a", "b", "c"):
        writer.put(Piece("reasoning", text, "self"))
    writer.put(Piece("answer", "d", "self"))
    writer.put(Piece("answer", "e", "self", call=2))
    await writer.drain()
    writer.put(Piece("answer", "f", "self", call=2))
    await writer.drain()
    assert written(redis_url) == [
        ("reasoning", "abc", "1", "3"), ("answer", "d", "1", "3"), ("answer", "e", "2", "3"), ("answer", "f", "2", "3"),
    ]  # fmt: skip
    with Redis.from_url(redis_url) as client:
        assert 0 < client.ttl("pieces") <= 600


async def test_a_writer_of_nothing_writes_nothing(redis_url: str) -> None:
    await PieceWriter(RedisConnection(redis_url), "pieces", 1).drain()
    assert written(redis_url) == []


async def test_redis_that_is_away_costs_the_pieces_and_not_the_prediction(caplog: pytest.LogCaptureFixture) -> None:
    writer = PieceWriter(RedisConnection("redis://127.0.0.1:9/0", timeout_s=0.2), "pieces", 1)
    writer.put(Piece("answer", "a"))
    with caplog.at_level(logging.WARNING):
        await writer.drain()
    assert "Pieces of an answer are lost" in caplog.text


class Kept:
    """Stands for the writer."""

    def __init__(self) -> None:
        self.pieces: list[Piece] = []

    def put(self, piece: Piece) -> None:
        self.pieces.append(piece)

    def text(self, call: int = 1) -> str:
        return "".join(piece.text for piece in self.pieces if piece.call == call)


def chunk(predictor: Any, id_: str, text: str | None, finish: str | None = None) -> Any:
    delta = SimpleNamespace(content=text)
    return SimpleNamespace(
        predict_id=id(predictor), id=id_, choices=[SimpleNamespace(delta=delta, finish_reason=finish)]
    )


async def tell(predictor: Any, id_: str, text: str, size: int) -> None:
    for start in range(0, len(text), size):
        await dspy.settings.send_stream.send(chunk(predictor, id_, text[start : start + size]))
    await dspy.settings.send_stream.send(chunk(predictor, id_, None, "stop"))


ANSWERS = {
    "chat": "[[ ## answer ## ]]\nforty-two [or so]\n\n[[ ## completed ## ]]\n",
    "json": '{"answer": "forty-two [or so]"}',
    "xml": "<answer>\nforty-two [or so]\n</answer>",
}


# Tokens of one character would be too short: DSPy looks for the end of a field in the last ten.
@pytest.mark.parametrize("size", [3, 5, 7])
@pytest.mark.parametrize("adapter", ANSWERS)
async def test_each_adapters_answer_comes_in_pieces(adapter: str, size: int) -> None:
    module, kept = dspy.Predict("question -> answer"), Kept()
    bound: Any = SimpleNamespace(module=module, used_up=False)
    with dspy.context(adapter=ADAPTERS.find(adapter, "adapter")), streamed(bound, kept):  # pyright: ignore[reportArgumentType]
        await tell(module, "a", ANSWERS[adapter], size)
    assert kept.text().strip('"\n ') == "forty-two [or so]"


async def test_calls_of_one_predictor_are_told_apart_even_at_the_same_time() -> None:
    module, kept = dspy.Predict("question -> answer"), Kept()
    bound: Any = SimpleNamespace(module=module, used_up=False)
    with streamed(bound, kept):  # pyright: ignore[reportArgumentType]
        for start in range(0, 60, 5):
            for id_, answer in (("a", "one two three"), ("b", "four five six")):
                whole = f"[[ ## answer ## ]]\n{answer}\n\n[[ ## completed ## ]]\n"
                await dspy.settings.send_stream.send(chunk(module, id_, whole[start : start + 5]))
        for id_ in ("a", "b"):
            await dspy.settings.send_stream.send(chunk(module, id_, None, "stop"))
        await tell(module, "a", "[[ ## answer ## ]]\nseven\n\n[[ ## completed ## ]]\n", 5)
    assert [kept.text(call) for call in (1, 2, 3)] == ["one two three", "four five six", "seven"]


async def test_what_is_no_chunk_of_the_program_is_nobodys_business() -> None:
    module, kept = dspy.Predict("question -> answer"), Kept()
    bound: Any = SimpleNamespace(module=module, used_up=False)
    with streamed(bound, kept):  # pyright: ignore[reportArgumentType]
        await dspy.settings.send_stream.send(SimpleNamespace(message="a status"))
        await tell(dspy.Predict("question -> answer"), "x", ANSWERS["chat"], 3)
    assert kept.pieces == []


@pytest.mark.parametrize("bound", [{"used_up": True}, {"module": dspy.MultiChainComparison("question -> answer", M=2)}])
def test_what_cannot_be_streamed_is_not(bound: dict[str, Any]) -> None:
    made: Any = SimpleNamespace(**{"module": dspy.Predict("question -> answer"), "used_up": False, **bound})
    with streamed(made, Kept()):  # pyright: ignore[reportArgumentType]
        assert dspy.settings.send_stream is None
