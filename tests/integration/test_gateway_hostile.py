"""Hostile or faulty clients are rejected or limited, without affecting others."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from typing import Any

import grpc
import grpc.aio
import httpx
import pytest

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from tests.harness.waiting import PATIENCE_S, eventually
from tests.integration.gateway_clients import Client, connected, first, gateway, grants, http, refusal
from workers.gateway import Gateway, GatewayLimits

LIMITS = GatewayLimits(message_bytes=200_000, streams=20, write_s=0.5, calls_per_s=5_000)


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    async with gateway(redis_url, grants=grants(), limits=LIMITS) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[Client]:
    async with connected(served.grpc_address) as connected_client:
        yield connected_client


async def refused(call: Any) -> tuple[str, str, list[Any]]:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return refusal(error.value)


async def status(call: Any) -> str:
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await call
    return error.value.code().name


ASKED: dict[str, tuple[str, Any]] = {
    "Publish": ("variables", pb.PublishRequest(session="user-1", changes=[pb.Change(name="a", value_json=b"1")])),
    "Rollback": ("variables", pb.RollbackRequest(session="user-1", to="latest")),
    "Get": ("variables", pb.GetVariablesRequest(session="user-1")),
    "History": ("variables", pb.HistoryRequest(session="user-1")),
    "Watch": ("variables", pb.WatchRequest(session="user-1")),
    "Submit": ("predictions", pb.SubmitRequest(program="qa", session="user-1")),
    "Cancel": ("predictions", pb.PredictionRequest(id="x")),
    "Stream": ("predictions", pb.StreamRequest(id="x")),
    "Register": ("programs", pb.RegisterRequest(name="x", spec_json=b"{}")),
    "List": ("programs", pb.ListProgramsRequest()),
}
# What each grant of the tests must not do on user-1.
DENIED = {
    "publisher": {"Submit", "Cancel", "Stream", "Register"},
    "reader": {"Publish", "Rollback", "Submit", "Cancel", "Stream", "Register"},
    "predictor": {"Publish", "Rollback", "Get", "History", "Watch", "Register", "List"},
    "other": {"Publish", "Rollback", "Get", "History", "Watch", "Submit", "Register"},
}


def call(client: Client, method: str, metadata: Any) -> Any:
    service, request = ASKED[method]
    started = getattr(getattr(client, service), method)(request, metadata=metadata)
    return first(started, 1) if method in ("Watch", "Stream") else started


HEADERS = [None, "", "Bearer", "Bearer ", "Bearer forged", "Basic all", "all", "bearer all all", "Bearer ALL"]


async def test_every_method_needs_a_known_token(client: Client) -> None:
    for header in HEADERS:
        metadata = () if header is None else (("authorization", header),)
        for method in ASKED:
            found = await refused(call(client, method, metadata))
            assert found[:2] == ("UNAUTHENTICATED", "UnauthenticatedError"), (header, method)
            assert "forged" not in str(found[2])


async def test_a_token_is_limited_to_its_scopes_and_sessions(client: Client) -> None:
    for token, methods in DENIED.items():
        for method in methods:
            found = await refused(call(client, method, client.with_token(token).metadata))
            assert found[:2] == ("PERMISSION_DENIED", "NotGrantedError"), (token, method)


async def test_a_token_can_not_be_guessed_from_others(client: Client) -> None:
    await client.publish("user-1", secret=1)
    reader = client.with_token("reader")
    assert await reader.values("user-1") == {"secret": 1}
    assert (await refused(reader.get("other-1")))[1] == "NotGrantedError"
    assert (await refused(reader.get("USER-1")))[1] == "NotGrantedError"
    assert (await refused(reader.get("x user-1")))[1] == "NotGrantedError"


@pytest.mark.parametrize("session", ["", "x" * 513])
async def test_a_session_needs_a_name_of_bounded_length(client: Client, session: str) -> None:
    assert (await refused(client.get(session)))[:2] == ("INVALID_ARGUMENT", "MalformedError")


async def test_an_oversized_message_is_rejected_and_the_connection_stays_usable(client: Client) -> None:
    assert await status(client.publish("user-1", big="x" * 300_000)) == "RESOURCE_EXHAUSTED"
    assert await status(client.publish("user-1", big=[0.5] * 200_000)) == "RESOURCE_EXHAUSTED"
    token = await client.publish("user-1", small="x" * 100_000)
    assert (await client.get("user-1")).token == token


@pytest.mark.parametrize(
    "data", [b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", b"\x12" + b"\x0a" * 50, bytes(range(256))]
)
async def test_bytes_that_are_not_a_message_are_malformed(client: Client, data: bytes) -> None:
    publish = client.channel.unary_unary("/dspex.fleet.v1.Variables/Publish")
    found = await refused(publish(data, metadata=client.metadata))
    assert found[:2] == ("INVALID_ARGUMENT", "MalformedError")


async def test_wrong_types_and_numbers_are_rejected(client: Client) -> None:
    predictions, metadata = client.predictions, client.metadata
    wrong = [
        pb.SubmitRequest(program="qa", session="user-1", inputs_json=b"[]"),
        pb.SubmitRequest(program="qa", session="user-1", inputs_json=b'{"a":' * 20_000),
        pb.SubmitRequest(program="qa", session="user-1", priority=10),
        pb.SubmitRequest(program="qa", session="user-1", deadline_s=-1),
        pb.SubmitRequest(program="qa", session="user-1", deadline_s=float("nan")),
        pb.SubmitRequest(program="qa", session="user-1", max_staleness_s=float("inf")),
        pb.SubmitRequest(program="", session="user-1"),
        pb.SubmitRequest(program="qa", session="user-1", at_least="1.x"),
    ]
    for request in wrong:
        assert (await refused(predictions.Submit(request, metadata=metadata)))[0] == "INVALID_ARGUMENT", request
    change = pb.Change(name="a", value_json=b"1", type=99)  # pyright: ignore[reportArgumentType]
    request = pb.PublishRequest(session="user-1", changes=[change])
    assert (await refused(client.variables.Publish(request, metadata=metadata)))[1] == "ValidationError"
    nothing = pb.PublishRequest(session="user-1")
    assert (await refused(client.variables.Publish(nothing, metadata=metadata)))[1] == "MalformedError"


async def test_one_clients_rate_does_not_affect_another(redis_url: str) -> None:
    async with gateway(redis_url, grants=grants(calls_per_s=20)) as served, connected(served.grpc_address) as hasty:
        await hasty.publish("user-1", a=1)
        answers = await asyncio.gather(*(hasty.get("user-1") for _ in range(200)), return_exceptions=True)
        turned_away = [answer for answer in answers if isinstance(answer, grpc.aio.AioRpcError)]
        assert {refusal(answer)[:2] for answer in turned_away} == {("RESOURCE_EXHAUSTED", "TooManyError")}
        assert 100 < len(turned_away) < 200
        assert dict(turned_away[0].trailing_metadata() or ())["retry-after"] == "1"
        assert await hasty.with_token("reader").values("user-1") == {"a": 1}


async def test_a_batch_counts_as_all_its_predictions(redis_url: str) -> None:
    async with gateway(redis_url, grants=grants(calls_per_s=20)) as served, connected(served.grpc_address) as client:
        batch = pb.SubmitBatchRequest(requests=[pb.SubmitRequest(program="qa", at_least="wrong")] * 100)
        await client.predictions.SubmitBatch(batch, metadata=client.metadata)
        assert (await refused(client.get("user-1")))[1] == "TooManyError"


async def test_a_thousand_idle_streams_are_limited_and_do_not_affect_others(served: Gateway, client: Client) -> None:
    await client.publish("user-1", a=0)
    async with AsyncExitStack() as stack:
        crowds = [await stack.enter_async_context(connected(served.grpc_address, "reader")) for _ in range(4)]
        streams = [
            crowd.variables.Watch(pb.WatchRequest(session="user-1"), metadata=crowd.metadata)
            for crowd in crowds
            for _ in range(250)
        ]
        found = await asyncio.gather(*(first(stream, 1) for stream in streams), return_exceptions=True)
        let_in = [outcome for outcome in found if not isinstance(outcome, BaseException)]
        assert len(let_in) == LIMITS.streams
        turned_away = {refusal(outcome)[:2] for outcome in found if isinstance(outcome, grpc.aio.AioRpcError)}
        assert turned_away == {("RESOURCE_EXHAUSTED", "TooManyError")}
        watching = client.variables.Watch(pb.WatchRequest(session="user-1"), metadata=client.metadata)
        await first(watching, 1)
        token = await client.publish("user-1", a=1)
        assert (await first(watching, 1))[0].token == token
        watching.cancel()
        for stream in streams:
            stream.cancel()

        async def room() -> bool:
            crowd = crowds[0].variables.Watch(pb.WatchRequest(session="user-1"), metadata=crowds[0].metadata)
            try:
                return bool(await first(crowd, 1))
            except grpc.aio.AioRpcError:
                return False
            finally:
                crowd.cancel()

        await eventually(room, "room for streams again, once the others are gone")


async def test_connections_without_a_complete_request_are_closed(redis_url: str) -> None:
    head = b"POST /v1/sessions/user-1/publish HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    async with gateway(redis_url, limits=GatewayLimits(read_s=0.3)) as served:
        host, port = str(served.http_address).split(":")
        for sent in (b"", head, head + b"content-length: 100\r\n\r\n{"):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(sent)
            answer = await asyncio.wait_for(reader.read(), PATIENCE_S)
            assert not answer or b"504" in answer.splitlines()[0]
            writer.close()
        async with http(served.http_address) as other:
            assert (await other.get("/healthz")).status_code == 200


async def test_idle_connections_and_half_sent_requests_leave_the_gateway_usable(
    served: Gateway, client: Client
) -> None:
    host, port = str(served.http_address).split(":")
    grpc_host, grpc_port = str(served.grpc_address).split(":")
    writers = []
    for n in range(200):
        target = (host, port) if n % 2 else (grpc_host, grpc_port)
        _, writer = await asyncio.open_connection(*target)
        writer.write(b"POST /v1/sessions/user-1/publish HTTP/1.1\r\nhost: x\r\ncontent-le" if n % 3 else b"")
        writers.append(writer)
    token = await client.publish("user-1", a=1)
    async with http(served.http_address) as other:
        assert (await other.get("/v1/sessions/user-1/variables")).json()["token"] == token
    for writer in writers:
        writer.close()


async def test_a_reader_that_accepts_nothing_is_disconnected_and_others_are_not(
    served: Gateway, client: Client
) -> None:
    await client.publish("user-1", a="0")
    host, port = str(served.http_address).split(":")
    slow = socket.create_connection((host, int(port)))
    slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    slow.sendall(
        f"GET /v1/sessions/user-1/watch HTTP/1.1\r\nhost: {host}\r\nauthorization: Bearer reader\r\n\r\n".encode()
    )
    quick = client.variables.Watch(pb.WatchRequest(session="user-1"), metadata=client.metadata)
    await first(quick, 1)

    async def cut_off() -> bool:
        token = await client.publish("user-1", a=str(len(published)) + "x" * 100_000)
        published.append(token)
        assert (await first(quick, 1))[0].token == token
        return not served._gate._limiter._usage["reader"].streams

    published: list[str] = []
    await eventually(cut_off, "the slow reader to be cut off", timeout_s=30, poll_s=0.05)
    quick.cancel()
    slow.close()


async def test_a_slow_reader_skips_revisions_and_ends_at_the_last(redis_url: str) -> None:
    # A small window, so that the network doesn't buffer what the reader doesn't accept.
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
    async with gateway(redis_url) as served, connected(served.grpc_address) as client:
        await client.publish("user-1", a=0)
        async with grpc.aio.insecure_channel(str(served.grpc_address), options=options) as channel:
            stream = Client(channel).variables.Watch(pb.WatchRequest(session="user-1"))
            await first(stream, 1)
            token = None
            for n in range(1, 60):
                token = await client.publish("user-1", a=n, b="x" * 150_000)
            seen = []
            async with asyncio.timeout(PATIENCE_S):
                async for snapshot in stream:
                    seen.append(tuple(map(int, snapshot.token.split("."))))
                    if snapshot.token == token:
                        break
    assert seen == sorted(seen)
    assert len(seen) < 50


async def test_a_grpc_reader_that_accepts_nothing_is_disconnected(redis_url: str) -> None:
    options = [("grpc.http2.bdp_probe", 0), ("grpc.http2.lookahead_bytes", 65_536)]
    async with gateway(redis_url, limits=LIMITS) as served, connected(served.grpc_address) as client:
        await client.publish("user-1", a=0)
        async with grpc.aio.insecure_channel(str(served.grpc_address), options=options) as channel:
            stuck = Client(channel).variables.Watch(pb.WatchRequest(session="user-1"))
            await first(stuck, 1)

            async def cut_off() -> bool:
                await client.publish("user-1", a=len(published), b="x" * 150_000)
                published.append(1)
                return not served._gate._limiter._usage[""].streams

            published: list[int] = []
            await eventually(cut_off, "the stuck reader to be cut off", timeout_s=30, poll_s=0.05)
            with pytest.raises(grpc.aio.AioRpcError) as error:
                await first(stuck, 10_000)
            assert error.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_deadlines_are_honoured(client: Client) -> None:
    await client.publish("user-1", a=1)
    later = pb.GetVariablesRequest(session="user-1", at_least="9000000000000000000.1", wait_s=60)
    found = await status(client.variables.Get(later, metadata=client.metadata, timeout=0.3))
    assert found in ("DEADLINE_EXCEEDED", "FAILED_PRECONDITION")
    watch = client.variables.Watch(pb.WatchRequest(session="user-1"), metadata=client.metadata, timeout=0.3)
    with pytest.raises(grpc.aio.AioRpcError) as error:
        await first(watch, 2)
    assert error.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_call_that_takes_too_long_ends_with_a_named_error(redis_url: str) -> None:
    async with gateway(redis_url, limits=GatewayLimits(call_s=0.3)) as served, connected(served.grpc_address) as client:
        await client.publish("user-1", a=1)
        await client.publish("user-1", a=2)
        served._fleet.store.history = _never  # pyright: ignore[reportAttributeAccessIssue]
        late = await refused(client.variables.History(pb.HistoryRequest(session="user-1")))
        assert late == ("DEADLINE_EXCEEDED", "TookTooLongError", [0.3])


async def _never(*_: Any) -> Any:
    await asyncio.Event().wait()


async def test_endless_headers_are_rejected(served: Gateway, client: Client) -> None:
    await client.publish("user-1", a=1)
    metadata = (*client.metadata, *((f"x-{n}", "y" * 1_000) for n in range(100)))
    assert await status(client.variables.Get(pb.GetVariablesRequest(session="user-1"), metadata=metadata)) in (
        "RESOURCE_EXHAUSTED", "INTERNAL", "UNAVAILABLE"
    )  # fmt: skip
    async with http(served.http_address) as other:
        try:
            found = (await other.get("/v1/sessions/user-1/variables", headers={"x": "y" * 500_000})).status_code
        except httpx.HTTPError:
            found = 0  # it disconnected while they were still being sent
        assert found in (0, 400, 431)
        assert (await other.get("/v1/sessions/user-1/variables")).status_code == 200
    assert await client.values("user-1") == {"a": 1}


async def test_an_error_too_large_for_metadata_keeps_its_status_and_class(client: Client) -> None:
    changes = [pb.Change(name=f"variable \u2713 {n} " + "x" * 60, value_json=b"1") for n in range(1_000)]
    await client.variables.Publish(pb.PublishRequest(session="user-1", changes=changes), metadata=client.metadata)
    status, kind, fields = await refused(client.get("user-1", names=["\u2713" * 5_000]))
    assert (status, kind, fields[1]) == ("NOT_FOUND", "VariableNotFoundError", "user-1")
    huge = "\U0001f600" * 20_000
    assert (await refused(client.publish("user-1", **{huge: [[]]})))[:2] == ("INVALID_ARGUMENT", "ValidationError")


async def test_an_unexpected_error_reveals_no_details(
    served: Gateway, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: Any) -> Any:
        raise KeyError("/etc/secret")

    monkeypatch.setattr(type(served._fleet.store), "history", broken)
    found = await refused(client.variables.History(pb.HistoryRequest(session="user-1"), metadata=client.metadata))
    assert found == ("INTERNAL", "InternalError", [])
    async with http(served.http_address) as other:
        answer = await other.get("/v1/sessions/user-1/history")
    assert (answer.status_code, json.loads(answer.content)["error"]["kind"]) == (500, "InternalError")
    assert b"secret" not in answer.content
