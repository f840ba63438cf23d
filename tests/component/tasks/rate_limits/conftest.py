"""Limits on a real server, and a broker whose messages are claimed as a worker claims them."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any

import pytest

from snakepit_bridge.delivery.keys import DeliveryKeys
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.rate_limits.store import LimitStore
from tests.harness.servers import on_each_server
from tests.unit.tasks.callers import snapshot
from workers.broker.claims import BrokerClaims

# The scripts of the limits run on Redis as well as on Valkey.
pytest_generate_tests = on_each_server


@dataclass(frozen=True)
class Task:
    """A task as the limits see it."""

    task_id: str
    session: str = "s"
    program: str = "qa"
    deadline: float | None = None
    priority: int = 0
    claim: str = ""
    variables: tuple[tuple[str, Any], ...] = ()

    @property
    def snapshot(self) -> Snapshot:
        return snapshot(self.session, **dict(self.variables))


@dataclass
class Broker:
    """A broker's lists, and claims on them."""

    store: LimitStore
    count: int = 0

    async def claimed(self, task_id: str, *, session: str = "s", queue: str = "predictions", **fields: Any) -> Task:
        """A task whose message a worker has claimed."""
        self.count += 1
        tag = f"worker.{self.count}"
        client: Any = self.store.connection.client
        await client.hset("dspex:delivery:held:worker", tag, f"{queue}\nmessage of {task_id}")
        await client.expire("dspex:delivery:held:worker", 60)
        return Task(task_id, session, claim=tag, **fields)

    async def held(self) -> list[str]:
        """The messages that the worker holds."""
        client: Any = self.store.connection.client
        held = await client.hvals("dspex:delivery:held:worker")
        return [entry.decode().partition("\n")[2] for entry in held]

    async def queued(self, queue: str = "predictions") -> list[str]:
        """The messages of a queue, next first."""
        client: Any = self.store.connection.client
        return [entry.decode() for entry in reversed(await client.lrange(queue, 0, -1))]


# Stands still between two steps of a test.
_CLOCK = "local function clock() return tonumber(redis.call('GET', KEYS[1] .. 'test:clock')) end"


@dataclass
class Clock:
    """The server's clock, as the limits see it."""

    store: LimitStore

    async def set(self, milliseconds: float) -> None:
        """Set it."""
        client: Any = self.store.connection.client
        await client.set(f"{self.store.prefix}test:clock", repr(milliseconds), ex=600)

    async def pass_by(self, milliseconds: float) -> None:
        """Let time pass."""
        client: Any = self.store.connection.client
        now = float(await client.get(f"{self.store.prefix}test:clock"))
        await self.set(now + milliseconds)


@pytest.fixture
async def clock(store: LimitStore) -> Clock:
    store.libraries = {"clock": _CLOCK}
    clock = Clock(store)
    await clock.set(1_800_000_000_000.0)
    return clock


@pytest.fixture
async def store(redis_url: str) -> AsyncGenerator[LimitStore]:
    connection = RedisConnection(redis_url)
    yield LimitStore(connection, "dspex", BrokerClaims(connection, DeliveryKeys()))
    await connection.aclose()


@pytest.fixture
def broker(store: LimitStore) -> Broker:
    return Broker(store)
