"""What strangers send to a gateway: no error without a name, no end of the process, and honest clients are answered."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import grpc
import pytest
from grpc.aio import AioRpcError

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from tests.harness.waiting import PATIENCE_S, Stopwatch, eventually
from tests.integration.gateway_clients import Client, connected, gateway, grants, http, refusal
from workers.gateway import Gateway, GatewayLimits

HALF = [
    b"",
    b"P",
    b"GET /healthz HTTP/1.1\r\n",
    b"POST /v1/sessions/user-1/publish HTTP/1.1\r\nhost: localhost\r\ncontent-le",
    b"POST /v1/sessions/user-1/publish HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n"
    b"content-length: 100\r\n\r\n{",
    b"POST /v1/predictions HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer forged\r\ncontent-length: 9\r\n\r\n{",
]

# A client that isn't served beside a crowd is refused at once, or waits for as long as a call may take.
SOON_S = 5.0


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    limits = GatewayLimits(calls_per_s=100_000, message_bytes=200_000)
    async with gateway(redis_url, grants=grants(), limits=limits) as running:
        yield running


async def half_open(address: str, count: int, stack: AsyncExitStack) -> None:
    host, port = address.rsplit(":", 1)

    async def open_half(number: int) -> None:
        _, writer = await asyncio.open_connection(host, int(port))
        stack.callback(writer.close)
        with suppress(ConnectionError):
            writer.write(HALF[number % len(HALF)])
            await writer.drain()

    for start in range(0, count, 200):
        await asyncio.gather(*(open_half(number) for number in range(start, start + 200)))


async def slowest(ask: Callable[[], Any], count: int) -> float:
    took = []
    for _ in range(count):
        watch = Stopwatch()
        await ask()
        took.append(watch.elapsed_s)
    return max(took)


@pytest.mark.parametrize("guarded", [True, False], ids=["tokens", "no tokens"])
async def test_honest_clients_are_answered_beside_thousands_of_half_sent_requests(
    redis_url: str, guarded: bool
) -> None:
    tokens = {"grants": grants()} if guarded else {}
    async with gateway(redis_url, **tokens) as served, AsyncExitStack() as stack:
        kept = await stack.enter_async_context(http(served.http_address))
        assert (await kept.post("/v1/sessions/user-1/publish", json=change(0))).status_code == 200
        await half_open(str(served.http_address), 2_400, stack)

        async def new_client() -> None:
            async with http(served.http_address) as client:
                assert (await client.get("/v1/sessions/user-1/variables")).status_code == 200

        async def old_client() -> None:
            assert (await kept.get("/v1/sessions/user-1/variables")).status_code == 200

        assert await slowest(new_client, 20) < SOON_S
        assert await slowest(old_client, 20) < SOON_S
        assert len(served._http._receiver._connections._newcomers) <= 500  # pyright: ignore[reportOptionalMemberAccess]


async def test_honest_grpc_clients_are_answered_beside_more_half_sent_calls_than_there_may_be(redis_url: str) -> None:
    """Calls whose message never comes, without a token that was given out."""
    async with (
        gateway(redis_url, grants=grants(), limits=GatewayLimits(calls=100)) as served,
        AsyncExitStack() as stack,
        connected(served.grpc_address) as honest,
    ):
        await honest.publish("user-1", a=1)
        calls = []
        for _ in range(3):
            crowd = await stack.enter_async_context(connected(served.grpc_address, None))
            method = crowd.channel.stream_unary("/dspex.fleet.v1.Variables/Publish")
            half_sent = [method(metadata=(("authorization", "Bearer forged"),)) for _ in range(200)]
            calls += half_sent
        for call in calls:
            stack.callback(call.cancel)
            with suppress(AioRpcError):  # it is refused already
                await call.wait_for_connection()

        async def refused() -> bool:
            return all(call.done() for call in calls)

        assert await slowest(lambda: honest.get("user-1"), 20) < SOON_S
        await eventually(refused, "the end of calls without a token, whose message never comes")


def change(value: Any) -> dict[str, Any]:
    return {"changes": [{"name": "a", "value": value}]}


def many(count: int) -> bytes:
    return json.dumps({"changes": [{"name": f"v{number}", "value": number} for number in range(count)]}).encode()


async def test_a_publish_of_more_than_there_may_be_is_refused_by_name_before_it_is_read(redis_url: str) -> None:
    json_type = {"content-type": "application/json"}
    async with (
        gateway(redis_url) as served,
        http(served.http_address) as client,
        connected(served.grpc_address) as other,
    ):
        start = Stopwatch()
        answer = await client.post("/v1/sessions/s/publish", content=many(60_000), headers=json_type)
        assert (answer.status_code, answer.json()["error"]["kind"]) == (413, "TooLargeError")
        assert start.elapsed_s < 1.0
        changes = [pb.Change(name=f"v{number}", value_json=b"1") for number in range(60_000)]
        with pytest.raises(AioRpcError) as error:
            await other.variables.Publish(pb.PublishRequest(session="s", changes=changes))
        assert refusal(error.value)[:2] == ("RESOURCE_EXHAUSTED", "TooLargeError")


async def test_the_largest_publish_holds_nobody_up(redis_url: str) -> None:
    async with gateway(redis_url) as served, http(served.http_address) as client:
        assert (await client.post("/v1/sessions/honest/publish", json=change(1))).status_code == 200
        json_type = {"content-type": "application/json"}
        publishing = asyncio.create_task(client.post("/v1/sessions/s/publish", content=many(5_000), headers=json_type))
        took = []
        while not publishing.done():
            watch = Stopwatch()
            await client.get("/v1/sessions/honest/variables")
            took.append(watch.elapsed_s)
        assert (await publishing).status_code == 200
        assert max(took) < 1.0, took


HEADERS = ["content-type", "content-length", "transfer-encoding", "host", "origin", "authorization", "request-timeout",
           "expect", "connection", "upgrade", "last-event-id", "content-encoding", "x"]  # fmt: skip
PATHS = ["/v1/sessions/user-1/publish", "/v1/sessions/user-1/rollback", "/v1/predictions", "/v1/predictions/batch",
         "/v1/predictions/x/cancel", "/v1/programs", "/v1/sessions/user-1/variables", "/v1/predictions/x/stream",
         "/v1/sessions/%00/history", "/v1/sessions//watch", "/v1/sessions/a%2fb/variables?exactly=x", "/", "/%ff",
         "/openapi.json", "*", "http://evil/v1/programs"]  # fmt: skip
TEXTS = ["", "0", "-1", "9" * 30, "chunked", "application/json", "\x00", "é", "nan", "1e999", "localhost",
         "Bearer all", "Bearer \xff", "100-continue", "close", "h2c", "x" * 2_000, "1-1"]  # fmt: skip
KEYS = ["changes", "name", "value", "type", "constraints", "pattern", "program", "inputs", "session", "requests",
        "spec", "module", "signature", "to", "deadline_s", "priority", "replace", "delete", "__type__", ""]  # fmt: skip


def some_json(chance: random.Random, depth: int = 0) -> Any:
    kind = chance.randrange(9 if depth < 4 else 6)
    if kind < 6:
        return [None, True, chance.randrange(-(10**20), 10**20), chance.uniform(-1e308, 1e308),
                chance.choice([*TEXTS, *KEYS, "a{99999999999}", "(" * 999, "\ud800", "NaN"]), 0][kind]  # fmt: skip
    if kind == 6:
        return [some_json(chance, depth + 1) for _ in range(chance.randrange(4))]
    return {chance.choice(KEYS): some_json(chance, depth + 1) for _ in range(chance.randrange(5))}


def some_request(chance: random.Random) -> bytes:
    """A request that is wrong in some way or other."""
    body = chance.choice([
        json.dumps(some_json(chance)).encode(), chance.randbytes(chance.randrange(200)), b"[" * 20_000,
        b'{"a":' * 9_000,
        json.dumps({"changes": [some_json(chance)]}).encode(),
        json.dumps({"changes": [{"name": "a", "value": "x", "constraints": {"pattern": "a{99999999999}"}}]}).encode(),
    ])  # fmt: skip
    method = chance.choice(["GET", "POST", "PUT", "OPTIONS", "HEAD", "\x16\x03", "PRI", ""])
    lines = [
        f"{method} {chance.choice(PATHS)} HTTP/{chance.choice(['1.1', '1.1', '1.0', '2', '9'])}",
        "host: localhost",
    ]
    if chance.random() < 0.8:
        lines += ["authorization: Bearer all", "content-type: application/json", f"content-length: {len(body)}"]
    lines += [f"{chance.choice(HEADERS)}: {chance.choice(TEXTS)}" for _ in range(chance.randrange(3))]
    whole = "\r\n".join(lines).encode("utf-8", "surrogatepass") + b"\r\n\r\n" + body
    return whole[: chance.randrange(len(whole))] if chance.random() < 0.2 else whole


async def answer_to(address: str, request: bytes) -> bytes:
    host, port = address.rsplit(":", 1)
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(request)
        return await asyncio.wait_for(reader.read(4_096), 0.3)
    except (TimeoutError, ConnectionError):
        return b""
    finally:
        writer.close()


async def fuzz(served: Gateway, chance: random.Random, until: float) -> list[tuple[bytes, bytes]]:
    """What was answered by a status of its own, and what had been sent."""
    failed = []
    while time.monotonic() < until:
        request = some_request(chance)
        answer = await answer_to(str(served.http_address), request)
        if answer.startswith(b"HTTP/1.1 500"):
            failed.append((request[:500], answer))
    return failed


async def fuzz_grpc(client: Client, chance: random.Random, until: float) -> list[tuple[str, bytes]]:
    failed = []
    methods = [f"{service}/{method}" for service, names in {
        "Variables": ["Publish", "Get", "History", "Rollback"], "Programs": ["Register", "List", "Get"],
        "Predictions": ["Submit", "SubmitBatch", "Get", "Cancel"]}.items() for method in names]  # fmt: skip
    while time.monotonic() < until:
        method = chance.choice(methods)
        change = pb.Change(name=chance.choice(KEYS), value_json=json.dumps(some_json(chance)).encode())
        request = chance.choice([
            chance.randbytes(chance.randrange(60)),
            pb.PublishRequest(session="user-1", changes=[change], expected=chance.choice("0x")).SerializeToString(),
            pb.SubmitRequest(program=chance.choice(KEYS), inputs_json=chance.randbytes(9)).SerializeToString(),
            pb.RegisterRequest(name="p", spec_json=json.dumps(some_json(chance)).encode()).SerializeToString(),
        ])  # fmt: skip
        try:
            await client.channel.unary_unary(f"/dspex.fleet.v1.{method}")(
                request, metadata=client.metadata, timeout=PATIENCE_S
            )
        except AioRpcError as exc:
            if exc.code() in (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN):
                failed.append((f"{method}: {exc.details()}", request))
    return failed


async def _fuzzed(served: Gateway, seconds: float) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    until = time.monotonic() + seconds
    async with connected(served.grpc_address) as client, http(served.http_address) as honest:
        assert (await honest.post("/v1/sessions/honest/publish", json=change(1))).status_code == 200
        strangers: list[asyncio.Task[Any]] = [
            asyncio.create_task(fuzz(served, random.Random(seed + n), until)) for n in range(6)
        ]
        strangers += [asyncio.create_task(fuzz_grpc(client, random.Random(seed + n), until)) for n in (10, 11)]
        took = []
        while time.monotonic() < until:
            start = Stopwatch()
            found = await honest.get("/v1/sessions/honest/variables")
            took.append(start.elapsed_s)
            assert found.json()["variables"][0]["value"] == 1
            await asyncio.sleep(0.01)
        failed = [failure for failures in await asyncio.gather(*strangers) for failure in failures]
    assert not failed, (seed, failed[:3])
    assert sorted(took)[int(len(took) * 0.99)] < 1.0, (seed, max(took))


async def test_nothing_that_is_sent_ends_in_an_error_without_a_name(served: Gateway) -> None:
    await _fuzzed(served, 4.0)


@pytest.mark.soak
async def test_nothing_that_is_sent_for_long_ends_in_an_error_without_a_name(served: Gateway) -> None:
    await _fuzzed(served, 300.0)
