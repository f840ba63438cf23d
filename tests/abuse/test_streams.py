"""A stream carries all pieces from the beginning, however late it is opened, through every door."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import AsyncGenerator, Generator
from dataclasses import replace
from typing import Any

import dspy
import grpc.aio
import httpx
import pytest

from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S
from tests.integration.gateway_clients import Client, connected, gateway, http
from workers.gateway import Gateway, GatewayLimits

PREDICTIONS, STREAMS_EACH = 12, 20


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage")) as play:
        play.fleet.register("plain", dspy.Predict("question -> answer"))
        # Hundreds of streams, their gateway and the LM are in this process: on a busy machine a reply takes seconds.
        yield replace(play, fleet=Fleet(play.url, wait_s=PATIENCE_S, timeout_s=PATIENCE_S))


@pytest.fixture
async def served(play: Stage) -> AsyncGenerator[Gateway]:
    limits = GatewayLimits(streams=2_000, calls_per_s=10_000)
    async with gateway(play.url, limits=limits, redis_timeout_s=PATIENCE_S) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[Client]:
    async with connected(served.grpc_address, token=None) as connected_client:
        yield connected_client


@pytest.fixture
async def web(served: Gateway) -> AsyncGenerator[httpx.AsyncClient]:
    async with http(served.http_address, token=None) as connected_client:
        connected_client.timeout = httpx.Timeout(PATIENCE_S)
        yield connected_client


async def ask(play: Stage, client: Client, words: int = 30) -> tuple[str, Handle]:
    question = f"{fresh('q')} {' '.join(f'word{number}' for number in range(words))}"
    return f"answer of {question}", play.fleet.handle(
        await client.submit("plain", "default", {"question": question}, stream=True)
    )


async def over_grpc(client: Client, task_id: str, after: str = "") -> list[pb.PredictionEvent]:
    request = pb.StreamRequest(id=task_id, after=after)
    return [event async for event in client.predictions.Stream(request, metadata=client.metadata, timeout=PATIENCE_S)]


async def over_http(web: httpx.AsyncClient, task_id: str, last_event_id: str = "") -> list[tuple[str, Any]]:
    """The events with their ids."""
    headers = {"last-event-id": last_event_id} if last_event_id else {}
    events, place = [], ""
    async with web.stream("GET", f"/v1/predictions/{task_id}/stream", headers=headers) as stream:
        assert stream.status_code == 200
        async for line in stream.aiter_lines():
            if line.startswith("id: "):
                place = line.removeprefix("id: ")
            if line.startswith("data: "):
                events.append((place, json.loads(line.removeprefix("data: "))))
                place = ""
    assert not [event for _, event in events if "error" in event], events[-1]
    return events


def text(events: list[pb.PredictionEvent]) -> str:
    return "".join(event.piece.text for event in events if event.HasField("piece"))


def text_of(events: list[tuple[str, Any]]) -> str:
    return "".join(event["piece"]["text"] for _, event in events if "piece" in event)


async def test_streams_opened_at_any_moment_through_any_door_join_to_the_whole_answer(
    play: Stage, client: Client, web: httpx.AsyncClient
) -> None:
    seed = random.randrange(2**32)
    chance = random.Random(seed)
    play.lm.pace(8, 0.01)

    async def read(door: int, handle: Handle, moment_s: float) -> str:
        await asyncio.sleep(moment_s)
        if door == 0:
            return text(await over_grpc(client, handle.id))
        if door == 1:
            return text_of(await over_http(web, handle.id))
        return "".join([piece.text async for piece in handle.stream()])

    moments = [0.0, *(chance.uniform(0, 2.0) for _ in range(STREAMS_EACH - 3)), 3.0, 4.0]
    sent = [await ask(play, client) for _ in range(PREDICTIONS)]
    opened = [(answer, chance.randrange(3), handle, at) for answer, handle in sent for at in moments]
    found = await asyncio.gather(*(read(door, handle, at) for _, door, handle, at in opened))
    wrong = [
        (handle.id, ("grpc", "http", "client")[door], at, got)
        for (answer, door, handle, at), got in zip(opened, found, strict=True)
        if got != answer
    ]
    assert not wrong, f"seed {seed}: {len(wrong)} wrong ones, the first of them {wrong[:25]}"


@pytest.mark.parametrize("faulty", [False, True], ids=["succeeded", "failed"])
async def test_a_stream_that_is_opened_after_the_end_has_every_piece_and_then_the_end(
    play: Stage, client: Client, web: httpx.AsyncClient, faulty: bool
) -> None:
    play.lm.pace(5, 0.002)
    answer, handle = await ask(play, client)
    if faulty:
        stream = handle.stream()
        await anext(stream)
        await handle.acancel()
        await stream.aclose()
    await handle.outcome() if faulty else await handle
    events = await over_grpc(client, handle.id)
    seen = [event.WhichOneof("event") for event in events]
    assert seen[:2] == ["state", "piece"], seen
    assert (seen[-1], set(seen[1:-1])) == ("ended", {"piece"})
    assert answer.startswith(text(events)) if faulty else text(events) == answer
    assert text_of(await over_http(web, handle.id)) == text(events)


async def test_a_stream_that_broke_goes_on_behind_the_last_piece_that_came(
    play: Stage, client: Client, web: httpx.AsyncClient
) -> None:
    play.lm.pace(5, 0.01)
    answer, handle = await ask(play, client)
    stream = client.predictions.Stream(pb.StreamRequest(id=handle.id), metadata=client.metadata)
    head, last = "", ""
    async for event in stream:
        if event.HasField("piece"):
            head, last = head + event.piece.text, event.position
        if len(head) > 20:
            stream.cancel()
            break
    assert last
    assert head + text(await over_grpc(client, handle.id, after=last)) == answer
    events = await over_http(web, handle.id)
    places = [place for place, event in events if "piece" in event]
    assert all(places)
    assert len(set(places)) == len(places)
    half = len(events) // 2
    rest = await over_http(web, handle.id, last_event_id=places[half])
    kept = [event for event in events if "piece" in event[1]][: half + 1]
    assert text_of(kept) + text_of(rest) == answer


@pytest.mark.parametrize("place", ["$", "-", "+", "1", "1-1-1", "(1-0", "1" * 30 + "-0"])
async def test_what_is_no_position_is_refused_by_name(
    play: Stage, client: Client, web: httpx.AsyncClient, place: str
) -> None:
    _, handle = await ask(play, client, 1)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await over_grpc(client, handle.id, after=place)
    assert error.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    refused = await web.get(f"/v1/predictions/{handle.id}/stream", headers={"last-event-id": place})
    assert (refused.status_code, refused.json()["error"]["kind"]) == (400, "MalformedError")
    await handle
