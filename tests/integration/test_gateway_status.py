"""The service Status: how the fleet stands, over gRPC and HTTP."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator

import pytest

from snakepit_bridge.delivery.activity import ActivityStore, EndedPredictions, ProcessReport
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.rollouts.sketch import bucket_of
from snakepit_bridge.snapshots.acknowledgements import AckReport, Acks
from tests.harness.broker import QUEUE, channel, put
from tests.integration.gateway_clients import Client, connected, gateway, grants, http, refused
from workers.gateway import Gateway

LATENCIES = {bucket_of(100.0): 90, bucket_of(2_000.0): 10}


@pytest.fixture
async def served(redis_url: str) -> AsyncGenerator[Gateway]:
    async with gateway(redis_url, grants=grants()) as running:
        yield running


@pytest.fixture
async def client(served: Gateway) -> AsyncGenerator[Client]:
    async with connected(served.grpc_address) as connected_client:
        yield connected_client


@pytest.fixture
async def connection(redis_url: str) -> AsyncGenerator[RedisConnection]:
    opened = RedisConnection(redis_url, timeout_s=5)
    yield opened
    await opened.aclose()


async def status(client: Client, **options: float) -> pb.FleetStatus:
    return await client.status.Get(pb.GetStatusRequest(**options), metadata=client.metadata)


async def test_the_processes_and_what_ended_are_those_that_were_reported(
    client: Client, connection: RedisConnection
) -> None:
    store, now = ActivityStore(connection), time.time()
    report = ProcessReport("worker@a", 7, "prefork", 1, ("predictions",), 1, now - 60, {"ok": 100, "failed": 2}, "v2")
    await store.report(report, EndedPredictions(now, {"ok": 100, "failed": 2}, LATENCIES))
    await store.report(report, EndedPredictions(now - 7_200, {"ok": 5}))
    found = await status(client)
    (process,) = found.processes
    assert (process.node, process.pid, process.pool, process.concurrency, process.in_flight) == (
        "worker@a", 7, "prefork", 1, 1,
    )  # fmt: skip
    assert (process.succeeded, process.failed, list(process.queues)) == (100, 2, ["predictions"])
    assert process.newer_release == "v2"
    (span,) = [span for span in found.ended if span.succeeded]
    assert (span.succeeded, span.failed, span.seconds, span.HasField("p50_s")) == (100, 2, 60, True)
    assert (span.p50_s, span.p95_s) == (pytest.approx(0.1, rel=0.03), pytest.approx(2.0, rel=0.03))
    day = await status(client, since_s=86_400)
    assert (len(day.ended) <= 181, sum(span.succeeded for span in day.ended)) == (True, 105)
    again = await status(client)
    assert [span.succeeded for span in again.ended if span.succeeded] == [100]


async def test_what_waits_is_counted_by_priority_and_age(client: Client, redis_url: str) -> None:
    with channel(redis_url) as ours:
        put(ours, 1, headers={"task": "x", "id": "1", "dspex_sent_at": time.time() - 30})
    found = await status(client)
    (depth,) = [depth for depth in found.queues if depth.waiting]
    assert (depth.queue, depth.waiting) == (QUEUE, 1)
    assert (found.held, found.delayed, found.parked, found.dead) == (0, 0, 0, 0)


async def test_a_session_that_a_process_lags_behind_on_is_named(client: Client, connection: RedisConnection) -> None:
    token = Token.parse(await client.publish("user-1", a=1))
    acks = Acks(connection)
    await acks.heartbeat("worker@a/7")
    await acks.report("worker@a/7", {"user-1": AckReport(token)})
    await client.publish("user-1", a=2)
    (lagging,) = (await status(client)).lagging
    assert (lagging.session, lagging.processes, lagging.behind) == ("user-1", 1, 1)


async def test_it_takes_a_token_for_all_sessions_and_a_span_of_a_day_at_most(served: Gateway, client: Client) -> None:
    code, kind, fields = await refused(status(client.with_token("reader")))
    assert (code, kind, fields[1:]) == ("PERMISSION_DENIED", "NotGrantedError", ["read", "*"])
    code, _, fields = await refused(status(client, since_s=86_401))
    assert (code, fields[0]) == ("INVALID_ARGUMENT", "since_s")
    async with http(served.http_address) as plain:
        answer = await plain.get("/v1/status", params={"since_s": 600})
        assert (answer.status_code, answer.json()["processes"], len(answer.json()["ended"])) == (200, [], 11)
