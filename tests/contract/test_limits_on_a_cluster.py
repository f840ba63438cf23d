"""The limits on Redis Cluster, which a fleet may have for its state beside another broker."""

from __future__ import annotations

import asyncio

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.pubsub import Subscription
from snakepit_bridge.snapshots.redis_store import RedisStore
from snakepit_bridge.snapshots.replica import Replica
from tasks.rate_limits.admission import FleetAdmission
from tasks.rate_limits.leases import LimitLeases
from tasks.rate_limits.protocol import Estimate, Permit, Used
from tasks.rate_limits.rules import LimitValues, Rules
from tasks.rate_limits.store import LimitStore
from tests.component.tasks.rate_limits.conftest import Task
from tests.harness.waiting import PATIENCE_S, eventually


async def test_tasks_wait_their_turn_and_pauses_are_heard(cluster_url: str) -> None:
    connection, snapshots = RedisConnection(cluster_url), RedisStore(cluster_url)
    replica, cancels, store = Replica(snapshots), Subscription(connection), LimitStore(connection)
    rules = Rules({"demo": LimitValues(concurrency=1, requests_per_min=6_000, tokens_per_min=1e9)})
    admission = FleetAdmission(LimitLeases(store, rules, replica, cancels), {})

    first = await admission.before_start(Task("first"), "demo", Estimate(10))
    assert isinstance(first, Permit)
    second = asyncio.create_task(admission.before_start(Task("second"), "demo", Estimate(10)))

    async def waits() -> bool:
        return await store.count_parked() == {"demo": 1}

    await eventually(waits, "it stands in its lane")
    await admission.settle(first, Used(1, 1))
    answer = await asyncio.wait_for(second, PATIENCE_S)
    assert isinstance(answer, Permit)
    await admission.pause("demo", 0.2)
    await admission.settle(answer, Used(1, 1))
    assert isinstance(await asyncio.wait_for(admission.admit(Task("third"), "demo", Estimate(10)), PATIENCE_S), Permit)
    await admission.aclose()
    await cancels.aclose()
    await replica.aclose()
    await connection.aclose()
