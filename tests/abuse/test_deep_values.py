"""Values that are nested too deeply or are none: a named refusal at every door, and no 500."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import grpc.aio
import httpx
import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.bulk.source import BulkSource
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import InputError, ValidationError
from tests.integration.gateway_clients import connected, gateway, grants, http, refusal
from workers.gateway import Gateway

DEPTHS = [150, 350, 450, 900, 5_000, 100_000]


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    async with gateway(redis_url, grants=grants()) as running:
        yield running


def lists(depth: int) -> str:
    return "[" * depth + "1" + "]" * depth


def tensor(depth: int) -> str:
    return f'{{"data":{lists(depth)},"shape":[{",".join(["1"] * min(depth, 1_000))}]}}'


ODD = [
    *(tensor(depth) for depth in DEPTHS),
    *(lists(depth) for depth in DEPTHS),
    "1" * 5_000,
    "NaN",
    '"\\ud800"',
    '{"data":[],"shape":[0,' + "9" * 4_000 + "]}",
    "{" * 1_000,
]


async def test_a_publish_of_what_is_no_value_is_refused_by_name_over_http(served: Gateway) -> None:
    async with http(served.http_address) as client:
        for text in ODD:
            await named(client, "/v1/sessions/user-1/publish", '{"changes":[{"name":"v","value":' + text + "}]}")
        for depth in DEPTHS:
            body = '{"changes":[{"name":"v","value":1,"constraints":{"note":' + lists(depth) + "}}]}"
            await named(client, "/v1/sessions/user-1/publish", body)


async def test_inputs_that_are_too_deep_are_refused_by_name_over_http(served: Gateway) -> None:
    async with http(served.http_address) as client:
        for depth in DEPTHS:
            request = '{"program":"qa","inputs":{"q":' + lists(depth) + "}}"
            await named(client, "/v1/predictions", request)
            await named(
                client, "/v1/programs", '{"name":"deep","spec":{"module":"Predict","state":' + lists(depth) + "}}"
            )


async def named(client: httpx.AsyncClient, path: str, body: str) -> None:
    answer = await client.post(path, content=body.encode(), headers={"content-type": "application/json"})
    assert 400 <= answer.status_code < 500, (answer.status_code, answer.text[:300])
    error = answer.json()["error"]
    assert error["kind"] not in ("InternalError", "NotFoundError"), error
    assert "recursion" not in error["message"], error


async def test_the_same_over_grpc(served: Gateway) -> None:
    async with connected(served.grpc_address) as client:
        for text in ODD:
            change = pb.Change(name="v", value_json=text.encode())
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await client.variables.Publish(
                    pb.PublishRequest(session="user-1", changes=[change]), metadata=client.metadata
                )
            assert refusal(raised.value)[:2] == ("INVALID_ARGUMENT", "ValidationError"), text[:50]
        for depth in DEPTHS:
            request = pb.SubmitRequest(program="qa", session="user-1", inputs_json=f'{{"q":{lists(depth)}}}'.encode())
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await client.predictions.Submit(request, metadata=client.metadata)
            assert refusal(raised.value)[:2] == ("INVALID_ARGUMENT", "InputError"), depth


def test_the_same_by_the_library(redis_url: str) -> None:
    session = Fleet(redis_url).session("s").blocking
    for text in (*map(tensor, DEPTHS[:3]), *map(lists, DEPTHS[:3])):
        with pytest.raises(ValidationError):
            session.set_variables({"v": json.loads(text)})


@pytest.mark.parametrize("depth", DEPTHS)
def test_the_same_by_a_line_of_a_batch(redis_url: str, depth: int, tmp_path: Path) -> None:
    file = tmp_path / "lines.jsonl"
    file.write_text(f'{{"q":{lists(depth)}}}\n', encoding="utf-8")
    [line] = BulkSource(file).lines()
    if line.inputs is None:
        assert "nested too deeply" in line.problem
        return
    inputs: Any = line.inputs
    with pytest.raises(InputError, match="nested deeper than 100 levels"):
        Fleet(redis_url).submit("qa", inputs)
