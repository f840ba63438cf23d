"""Answers in pieces: what the LM writes reaches whoever follows, however late or slowly he reads, and the end comes."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import dspy
import httpx
import pytest
from redis import Redis

from snakepit_bridge.client import Handle
from snakepit_bridge.client.stream import StreamChunk
from snakepit_bridge.exceptions import LMRefusedError, PredictionCancelledError, PredictionTimeoutError
from snakepit_bridge.process.home_loop import run_on_home_loop
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import wait_until, within
from workers.gateway import Gateway, GatewaySettings


@pytest.fixture(scope="module", params=["asyncio", "threads"])
def play(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), pool=request.param, DSPEX_RETRY_BACKOFF_S="0.01") as play:
        play.fleet.register("plain", dspy.Predict("question -> answer"))
        play.fleet.register("thoughtful", dspy.ChainOfThought("question -> answer"))
        yield play


@pytest.fixture(autouse=True)
def undisturbed(play: Stage) -> Iterator[None]:
    yield
    play.lm.faults.clear()


def ask(play: Stage, program: str = "plain", words: int = 30) -> tuple[str, Handle]:
    question = f"{fresh('q')} {' '.join(f'word{number}' for number in range(words))}"
    return question, play.fleet.submit(program, {"question": question}, stream=True)


def text(pieces: list[StreamChunk], field: str) -> str:
    return "".join(piece.text for piece in pieces if piece.field == field)


async def read(handle: Handle) -> list[StreamChunk]:
    return [piece async for piece in handle.stream()]


async def test_the_pieces_of_an_answer_are_the_answer(play: Stage) -> None:
    play.lm.pace(5, 0.02)
    question, handle = ask(play)
    pieces = await read(handle)
    assert text(pieces, "answer") == f"answer of {question}" == (await handle).answer
    assert len(pieces) > 5, "it came in one piece"
    assert {(piece.predictor, piece.call, piece.attempt) for piece in pieces} == {("self", 1, 1)}
    assert play.requests_with(question)[0].body["stream"] is True


async def test_pieces_come_while_the_lm_still_writes(play: Stage) -> None:
    play.lm.pace(5, 0.05)
    _, handle = ask(play)
    stream = handle.stream()
    first = await anext(stream)
    assert first.text
    assert not (await handle.outcome()).ready
    await stream.aclose()
    await handle.acancel()


async def test_each_text_field_has_its_pieces_in_order(play: Stage) -> None:
    play.lm.pace(7, 0.001)
    _, handle = ask(play, "thoughtful")
    pieces = await read(handle)
    prediction = await handle
    assert [field for field, _ in groupby(piece.field for piece in pieces)] == ["reasoning", "answer"]
    assert (text(pieces, "reasoning"), text(pieces, "answer")) == (prediction.reasoning, prediction.answer)
    assert {piece.predictor for piece in pieces} == {"predict"}


async def test_who_comes_late_gets_all_of_it(play: Stage) -> None:
    play.lm.pace(5)
    question, handle = ask(play)
    await handle
    assert text(await read(play.fleet.handle(handle.id)), "answer") == f"answer of {question}"


async def test_many_readers_follow_one_answer_over_one_connection(play: Stage) -> None:
    play.lm.pace(5, 0.005)
    question, handle = ask(play)
    read_by_all = await asyncio.gather(*(read(play.fleet.handle(handle.id)) for _ in range(50)))
    assert {text(pieces, "answer") for pieces in read_by_all} == {f"answer of {question}"}
    with Redis.from_url(play.url) as client:
        following = [connection for connection in client.client_list() if int(connection["sub"]) > 10]
    assert len(following) <= 1


async def test_a_slow_reader_holds_nobody_up_and_still_gets_all(play: Stage) -> None:
    play.lm.pace(3)
    question, handle = ask(play, words=200)
    stream = handle.stream()
    pieces = [await anext(stream)]
    with within(10):
        await handle
    pieces += [piece async for piece in stream]
    assert text(pieces, "answer") == f"answer of {question}"


async def test_one_that_was_not_submitted_to_be_followed_has_no_pieces_but_an_end(play: Stage) -> None:
    question = fresh("q")
    handle = play.fleet.submit("plain", {"question": question})
    assert await read(handle) == []
    assert (await handle).answer == f"answer of {question}"
    assert "stream" not in play.requests_with(question)[0].body


async def test_the_stream_of_a_failed_prediction_ends_and_awaiting_it_says_why(play: Stage) -> None:
    play.lm.fail(None, status=400)
    _, handle = ask(play)
    assert await read(handle) == []
    with pytest.raises(LMRefusedError):
        await handle


async def test_the_stream_of_a_cancelled_prediction_ends(play: Stage) -> None:
    play.lm.pace(1, 0.05)
    _, handle = ask(play)
    stream = handle.stream()
    await anext(stream)
    await handle.acancel()
    with within(3):
        [piece async for piece in stream]
    with pytest.raises(PredictionCancelledError):
        await handle


async def test_a_later_try_writes_its_pieces_under_its_own_number(play: Stage) -> None:
    play.lm.pace(5)
    play.lm.fail(1, status=503)
    question, handle = ask(play)
    pieces = await read(handle)
    assert {piece.attempt for piece in pieces} == {(await handle).provenance.attempt}
    assert text(pieces, "answer") == f"answer of {question}"


async def test_a_stream_is_bounded_by_the_fleets_wait(play: Stage) -> None:
    play.lm.hang(1)
    _, handle = ask(play)
    following = play.fleet.chunks.open(handle.id, 0.2)
    with within(3), pytest.raises(PredictionTimeoutError):
        await run_on_home_loop(following.read())
    await run_on_home_loop(following.aclose())
    await handle.acancel()


async def test_pieces_expire(play: Stage) -> None:
    play.lm.pace(5)
    _, handle = ask(play)
    await handle
    with Redis.from_url(play.url) as client:
        [key] = client.keys(f"*:pieces:{handle.id}")
        assert 0 < client.ttl(key) <= 600


# ---------------------------------------------------------------- the gateway


@pytest.fixture
async def served(play: Stage) -> AsyncIterator[Gateway]:
    gateway = Gateway(GatewaySettings(play.url, grpc="127.0.0.1:0", http="127.0.0.1:0"))
    await gateway.start()
    yield gateway
    await gateway.stop()


async def test_the_gateway_streams_pieces_as_events(play: Stage, served: Gateway) -> None:
    play.lm.pace(5, 0.005)
    question = f"{fresh('q')} {'x' * 100}"
    body = {"program": "plain", "session": "default", "inputs": {"question": question}, "stream": True}
    async with httpx.AsyncClient(base_url=f"http://{served.http_address}", timeout=30) as client:
        task_id = (await client.post("/v1/predictions", json=body)).json()["id"]
        async with client.stream("GET", f"/v1/predictions/{task_id}/stream") as stream:
            lines = [line async for line in stream.aiter_lines() if line.startswith("data: ")]
    events = [json.loads(line.removeprefix("data: ")) for line in lines]
    pieces = [event["piece"] for event in events if "piece" in event]
    assert "".join(piece["text"] for piece in pieces) == f"answer of {question}"
    assert {(piece["field"], piece["predictor"]) for piece in pieces} == {("answer", "self")}
    states = [event["state"] for event in events if "state" in event]
    assert states in (["queued", "running"], ["running"])
    assert events[-1]["ended"]["outputs"] == {"answer": f"answer of {question}"}


async def test_a_stream_that_nobody_reads_on_ends_with_its_gateway_not_before_and_others_go_on(
    play: Stage, served: Gateway
) -> None:
    play.lm.pace(5, 0.02)
    _, handle = ask(play)
    url = f"http://{served.http_address}/v1/predictions/{handle.id}/stream"
    async with httpx.AsyncClient(timeout=30) as client, client.stream("GET", url):
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(play.fleet.submit("plain", {"question": fresh("q")}).get, 20)
            assert await asyncio.wrap_future(other)
        wait_until(handle.ready, "the end of a prediction that is followed by one who doesn't read")
