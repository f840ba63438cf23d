"""Parking predictions that wait for batches: what they need when they run again is still there."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import cast

from redis import Redis

from snakepit_bridge.delivery.payloads import Payloads
from snakepit_bridge.lm_batches.records import WaitingRequest
from snakepit_bridge.lm_batches.store import LMBatchStore
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.cancellation import CancellationRegistry
from tasks.lm_batches.parking import BatchParking
from tasks.message_lease import MessageLeases
from tasks.prediction_context import PredictionContext
from tests.component.tasks.test_lm_batches import CLAIM_TAKE
from tests.harness.waiting import PATIENCE_S

DAY_S = 86_400


async def test_inputs_beside_a_parked_message_are_kept_for_as_long_as_it_may_wait(redis_url: str) -> None:
    connection = RedisConnection(redis_url)
    payloads = Payloads(connection, "dspex", 1_000)
    reference = await payloads.put({"question": "why?"}, DAY_S)
    interrupted = asyncio.Event()
    parking = BatchParking(
        LMBatchStore(connection, namespace="dspex", claim_take=CLAIM_TAKE),
        cast(MessageLeases, SimpleNamespace(base="held:")),
        cast(CancellationRegistry, SimpleNamespace(interrupt=lambda _: interrupted.set())),
        payloads,
        keep_s=7 * DAY_S,
    )
    scope = PredictionContext(
        "task", "s", "qa", 1, Snapshot("s", Token(0, 0), {}, 0.0), claim="task", payload=reference
    )
    with Redis.from_url(redis_url) as client:
        client.set("held:task", 1)
        assert 0 < client.ttl(payloads.key_of(reference)) <= DAY_S
        waiting = asyncio.create_task(parking.wait(scope, WaitingRequest("r", "task", "night", "/x", {})))
        await asyncio.wait_for(interrupted.wait(), PATIENCE_S)
        assert client.ttl(payloads.key_of(reference)) > 6 * DAY_S
        assert client.hlen("dspex:{lm-batches}:parked") == 1
    waiting.cancel()
    await asyncio.wait([waiting])
    await connection.aclose()
