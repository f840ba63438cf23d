"""The service DeadLetters: what the fleet has given up is listed, shown, retried and dropped."""

from __future__ import annotations

import json
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from tests.harness.broker import QUEUE, channel, put, take
from tests.integration.gateway_clients import Client, connected, gateway, grants, http, refused
from workers.gateway import Gateway


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    async with gateway(redis_url, grants=grants()) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[Client]:
    async with connected(served.grpc_address) as connected_client:
        yield connected_client


@pytest.fixture
def ids(redis_url: str) -> list[str]:
    """Three messages that a worker rejected, the newest last."""
    with channel(redis_url) as ours:
        for number in range(3):
            put(ours, number, headers={"task": "shop.unknown", "id": f"task-{number}"})
        messages = [take(ours) for _ in range(3)]
        for message in messages:
            message.reject(requeue=False)
    return [message.delivery_tag for message in messages]


async def listed(client: Client, limit: int = 0) -> pb.ListDeadLettersResponse:
    return await client.dead_letters.List(pb.ListDeadLettersRequest(limit=limit), metadata=client.metadata)


async def test_dead_letters_are_listed_and_shown(client: Client, ids: list[str]) -> None:
    found = await listed(client)
    assert (found.count, {letter.id for letter in found.letters}) == (3, set(ids))
    assert all(not letter.message for letter in found.letters)
    fewer = await listed(client, 1)
    assert (fewer.count, len(fewer.letters)) == (3, 1)
    letter = await client.dead_letters.Get(pb.DeadLetterRequest(id=ids[1]), metadata=client.metadata)
    assert (letter.reason, letter.queue, letter.task, list(letter.prediction_ids)) == (
        "rejected", QUEUE, "shop.unknown", ["task-1"],
    )  # fmt: skip
    assert json.loads(letter.message)["headers"]["id"] == "task-1"


async def test_a_dead_letter_goes_back_to_its_queue_or_is_dropped(
    client: Client, ids: list[str], redis_url: str
) -> None:
    retried = await client.dead_letters.Retry(pb.DeadLetterRequest(id=ids[0]), metadata=client.metadata)
    assert (retried.id, retried.queue) == (ids[0], QUEUE)
    with channel(redis_url) as ours:
        message = take(ours)
        assert message.headers["id"] == "task-0"
        message.ack()
    await client.dead_letters.Drop(pb.DeadLetterRequest(id=ids[1]), metadata=client.metadata)
    found = await listed(client)
    assert (found.count, [letter.id for letter in found.letters]) == (1, [ids[2]])
    for stub in (client.dead_letters.Get, client.dead_letters.Retry, client.dead_letters.Drop):
        for gone in ids[:2]:
            status, kind, _ = await refused(stub(pb.DeadLetterRequest(id=gone), metadata=client.metadata))
            assert (status, kind) == ("NOT_FOUND", "DeadMessageNotFoundError")
        for bad in ("", "x" * 129):
            assert (await refused(stub(pb.DeadLetterRequest(id=bad), metadata=client.metadata)))[2][0] == "id"


async def test_they_take_the_admin_scope_and_a_token_for_all_sessions(served: Gateway, ids: list[str]) -> None:
    async with connected(served.grpc_address, "operator") as operator:
        status, _, fields = await refused(listed(operator))
        assert (status, fields[1]) == ("PERMISSION_DENIED", "admin")
        caller = operator.with_token("administrator of some")
        requests: list[Any] = [
            caller.dead_letters.List(pb.ListDeadLettersRequest(), metadata=caller.metadata),
            *(
                stub(pb.DeadLetterRequest(id=ids[0]), metadata=caller.metadata)
                for stub in (caller.dead_letters.Get, caller.dead_letters.Retry, caller.dead_letters.Drop)
            ),
        ]
        for request in requests:
            status, _, fields = await refused(request)
            assert (status, fields[1:]) == ("PERMISSION_DENIED", ["admin", "*"])


async def test_the_same_over_http(served: Gateway, ids: list[str]) -> None:
    async with http(served.http_address) as over_http:
        found = (await over_http.get("/v1/dead-letters", params={"limit": 2})).json()
        assert (found["count"], len(found["letters"])) == (3, 2)
        shown = (await over_http.get(f"/v1/dead-letters/{ids[0]}")).json()
        assert (shown["reason"], json.loads(shown["message"])["headers"]["id"]) == ("rejected", "task-0")
        assert (await over_http.post(f"/v1/dead-letters/{ids[0]}/retry")).json()["id"] == ids[0]
        assert (await over_http.post(f"/v1/dead-letters/{ids[1]}/drop")).json() == {}
        missing = await over_http.post(f"/v1/dead-letters/{ids[1]}/drop")
        assert (missing.status_code, missing.json()["error"]["kind"]) == (404, "DeadMessageNotFoundError")
