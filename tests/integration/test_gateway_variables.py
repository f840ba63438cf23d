"""The gateway's Variables service over gRPC."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from typing import Any

import grpc.aio
import pytest
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.testing.elixir.server import BridgeServer
from tests.integration.gateway_clients import Client, connected, first, gateway, grants, refusal
from workers.gateway import Gateway, GatewayLimits
from workers.refresher import Refresher, RefresherSettings


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    async with gateway(redis_url, grants=grants()) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[Client]:
    async with connected(served.grpc_address) as connected_client:
        yield connected_client


async def refused(call: Any) -> tuple[str, str, list[Any]]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return refusal(error.value)


VALUES = [0.5, 3, 10**30, True, "ü\n'\u2713", "", [1.5, 2.0], {"data": [1, 2], "shape": [2]}, -0.0]


@pytest.mark.parametrize("value", VALUES, ids=repr)
async def test_a_published_value_is_read_back_unchanged(client: Client, value: Any) -> None:
    token = await client.publish("user-1", größe=value)
    found = await client.get("user-1", at_least=token)
    assert found.token == token
    assert found.authority == "store"
    assert json.loads(found.variables[0].value_json) == value
    assert found.variables[0].name == "größe"


async def test_type_and_constraints_apply_from_their_declaration_on(client: Client) -> None:
    change = pb.Change(name="t", value_json=b"1", type=pb.VARIABLE_TYPE_FLOAT, constraints_json=b'{"min":0,"max":2}')
    await client.variables.Publish(pb.PublishRequest(session="user-1", changes=[change]), metadata=client.metadata)
    found = (await client.get("user-1")).variables[0]
    assert (found.type, json.loads(found.constraints_json)) == (pb.VARIABLE_TYPE_FLOAT, {"min": 0, "max": 2})
    assert found.value_json == b"1.0"
    status, kind, fields = await refused(client.publish("user-1", t=2.5))
    assert (status, kind, fields[0]) == ("INVALID_ARGUMENT", "ValidationError", "t")


async def test_valid_and_invalid_changes_are_rejected_together(client: Client) -> None:
    before = await client.publish("user-1", a=1)
    for wrong in (b"{", b"NaN", b'{"x":[}', b"[" * 100_000, b"\xff", b""):
        changes = [pb.Change(name="a", value_json=b"2"), pb.Change(name="b", value_json=wrong)]
        request = pb.PublishRequest(session="user-1", changes=changes)
        status, kind, _ = await refused(client.variables.Publish(request, metadata=client.metadata))
        assert (status, kind) == ("INVALID_ARGUMENT", "ValidationError")
    for name in ("", " "):
        status, _, fields = await refused(client.publish("user-1", **{name: 1}))
        assert status == "INVALID_ARGUMENT"
        assert "A variable's name is text" in fields[0]
    assert (await client.get("user-1")).token == before


async def test_a_publish_on_top_of_another_state_is_aborted(client: Client) -> None:
    first_token = await client.publish("user-1", a=1)
    second = await client.publish("user-1", a=2)
    request = pb.PublishRequest(session="user-1", changes=[pb.Change(name="a", value_json=b"3")], expected=first_token)
    status, kind, fields = await refused(client.variables.Publish(request, metadata=client.metadata))
    assert (status, kind, fields) == ("ABORTED", "StaleTokenError", ["user-1", first_token, second])


async def test_deleting_and_replacing(client: Client) -> None:
    await client.publish("user-1", a=1, b=2, c=3)
    delete = pb.PublishRequest(session="user-1", changes=[pb.Change(name="a", delete=True)])
    await client.variables.Publish(delete, metadata=client.metadata)
    assert await client.values("user-1") == {"b": 2, "c": 3}
    assert (await refused(client.variables.Publish(delete, metadata=client.metadata)))[1] == "VariableNotFoundError"
    whole = pb.PublishRequest(session="user-1", changes=[pb.Change(name="z", value_json=b"9")], replace=True)
    await client.variables.Publish(whole, metadata=client.metadata)
    assert await client.values("user-1") == {"z": 9}


async def test_history_has_author_and_reason_and_rollback_is_a_new_revision(client: Client) -> None:
    token = await client.publish("user-1", a=1)
    request = pb.PublishRequest(
        session="user-1", changes=[pb.Change(name="a", value_json=b"2")], author="ann", reason="calmer"
    )
    await client.variables.Publish(request, metadata=client.metadata)
    back = pb.RollbackRequest(session="user-1", to=token)
    third = (await client.variables.Rollback(back, metadata=client.metadata)).token
    assert await client.values("user-1", exactly=third) == {"a": 1}
    history = await client.variables.History(pb.HistoryRequest(session="user-1"), metadata=client.metadata)
    assert [(revision.author, revision.reason) for revision in history.revisions] == [
        ("all", f"rollback to {token}"), ("all (says: ann)", "calmer"), ("all", "")
    ]  # fmt: skip
    changed = history.revisions[1].changes[0]
    assert (changed.before.value_json, changed.after.value_json) == (b"1", b"2")
    assert not history.revisions[2].changes[0].HasField("before")


async def test_get_waits_for_a_token_and_reports_the_current_one_on_a_timeout(client: Client) -> None:
    token = await client.publish("user-1", a=1)
    epoch, revision = token.split(".")
    later = f"{epoch}.{int(revision) + 1}"
    status, kind, fields = await refused(client.get("user-1", at_least=later))
    assert (status, kind, fields[:3]) == ("FAILED_PRECONDITION", "RevisionNotReachedError", ["user-1", later, token])
    waiting = asyncio.create_task(client.get("user-1", at_least=later, wait_s=10))
    await client.publish("user-1", a=2)
    assert (await waiting).token == later


async def test_names_select_variables_and_a_missing_one_is_not_found(client: Client) -> None:
    await client.publish("user-1", a=1, b=2)
    assert await client.values("user-1", names=["b"]) == {"b": 2}
    assert (await refused(client.get("user-1", names=["z"])))[:2] == ("NOT_FOUND", "VariableNotFoundError")
    assert (await refused(client.get("user-2")))[:2] == ("NOT_FOUND", "SessionNotFoundError")
    assert (await refused(client.get("user-1", at_least="soon")))[:2] == ("INVALID_ARGUMENT", "MalformedError")
    assert (await refused(client.get("user-1", exactly="1.1")))[:2] == ("OUT_OF_RANGE", "RevisionLostError")


async def test_watch_streams_the_current_snapshot_and_each_later_one(client: Client) -> None:
    await client.publish("user-1", a=1)
    stream = client.variables.Watch(pb.WatchRequest(session="user-1"), metadata=client.metadata)
    (now,) = await first(stream, 1)
    assert now.variables[0].value_json == b"1"
    tokens = []
    for value in (2, 3, 4):
        tokens.append(await client.publish("user-1", a=value))
        (seen,) = await first(stream, 1)
        assert (seen.token, seen.variables[0].value_json) == (tokens[-1], str(value).encode())
    stream.cancel()
    later = client.variables.Watch(pb.WatchRequest(session="user-1", after=tokens[0]), metadata=client.metadata)
    assert (await first(later, 1))[0].token == tokens[-1]
    later.cancel()


async def test_a_session_can_be_watched_before_it_is_published(client: Client) -> None:
    stream = client.variables.Watch(pb.WatchRequest(session="user-new"), metadata=client.metadata)
    seeing = asyncio.create_task(first(stream, 1))
    await asyncio.wait([seeing], timeout=0.2)
    token = await client.publish("user-new", a=1)
    assert (await seeing)[0].token == token
    stream.cancel()


async def test_a_stream_survives_a_lost_connection_to_the_store(client: Client, redis_url: str) -> None:
    await client.publish("user-1", a=0)
    stream = client.variables.Watch(pb.WatchRequest(session="user-1"), metadata=client.metadata)
    await first(stream, 1)
    with Redis.from_url(redis_url) as redis:
        for value in (1, 2, 3):
            redis.client_kill_filter(_type="pubsub")
            token = await client.publish("user-1", a=value)
            assert (await first(stream, 1))[0].token == token
    stream.cancel()


async def test_many_followers_of_a_session_cost_one_read_per_change(redis_url: str) -> None:
    async with (
        gateway(redis_url, limits=GatewayLimits(streams=1_000)) as served,
        connected(served.grpc_address) as client,
    ):
        await client.publish("user-1", a=0)
        streams = [client.variables.Watch(pb.WatchRequest(session="user-1")) for _ in range(300)]
        await asyncio.gather(*(first(stream, 1) for stream in streams))
        reads, store = [], served._replica._store
        reading = store.read

        async def counted(*args: Any) -> Any:
            reads.append(args)
            return await reading(*args)

        store.read = counted  # pyright: ignore[reportAttributeAccessIssue]
        token = await client.publish("user-1", a=1)
        seen = await asyncio.gather(*(first(stream, 1) for stream in streams))
        assert {snapshot.token for (snapshot,) in seen} == {token}
        assert len(reads) < 10
        for stream in streams:
            stream.cancel()


async def test_a_request_id_is_applied_once_and_answered_equally(client: Client) -> None:
    await client.publish("user-1", n=0)

    def request(value: bytes) -> pb.PublishRequest:
        changes = [pb.Change(name="n", value_json=value)]
        return pb.PublishRequest(session="user-1", changes=changes, request_id="r-1")

    answers = await asyncio.gather(
        *(client.variables.Publish(request(b"1"), metadata=client.metadata) for _ in range(5))
    )
    assert len({answer.token for answer in answers}) == 1
    await client.publish("user-1", n=7)
    again = await client.variables.Publish(request(b"1"), metadata=client.metadata)
    assert again.token == answers[0].token
    assert await client.values("user-1") == {"n": 7}
    refusal = await refused(client.variables.Publish(request(b"2"), metadata=client.metadata))
    assert refusal == ("ALREADY_EXISTS", "RequestIdConflictError", ["r-1"])


async def test_a_publish_to_a_followed_session_goes_to_elixir_and_its_token_includes_it(redis_url: str) -> None:
    with BridgeServer() as elixir:
        elixir.begin("user-1")
        elixir.register("user-1", "temperature", "float", 0.5, min=0, max=2)
        settings = RefresherSettings(elixir.address, redis_url, sessions=("user-1",), poll_s=0.05, poll_max_s=0.2)
        stop = asyncio.Event()
        following = asyncio.create_task(Refresher(settings).run(stop))
        try:
            async with gateway(redis_url, bridge=elixir.address) as served, connected(served.grpc_address) as client:
                token = await client.publish("user-1", temperature=1.5)
                found = await client.get("user-1", exactly=token)
                assert found.authority == "elixir"
                assert json.loads(found.variables[0].value_json) == elixir.value("user-1", "temperature") == 1.5
                request = pb.PublishRequest(
                    session="user-1", changes=[pb.Change(name="temperature", value_json=b"1")], expected=token
                )
                assert (await refused(client.variables.Publish(request)))[0] == "UNIMPLEMENTED"
                elixir.stop()
                unreachable = await refused(client.publish("user-1", temperature=1.0))
                assert unreachable[:2] == ("UNAVAILABLE", "ElixirUnavailableError")
            async with gateway(redis_url) as served, connected(served.grpc_address) as client:
                owned = await refused(client.publish("user-1", temperature=1.0))
                assert owned[:2] == ("FAILED_PRECONDITION", "SessionOwnedElsewhereError")
        finally:
            stop.set()
            await following


async def test_publishes_of_python_and_the_gateway_are_visible_to_each_other(client: Client, redis_url: str) -> None:
    ctx = Fleet(redis_url).session("user-1")
    token = await ctx.set_variable("a", 1)
    assert await client.values("user-1", at_least=str(token)) == {"a": 1}
    await client.publish("user-1", a=2)
    assert await ctx.get_variable("a") == 2
