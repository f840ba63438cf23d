"""What does it cost a task to have 20 bound variables up to date, beside asking for them over the network?

A sync is what a worker does before each prediction: it takes the session's snapshot from its replica and the bound
values from that. ``warm`` finds nothing new; ``changed`` requires the token of a publish that was made just before, so
it has to fetch what changed. Beside them, in the same process and run: one ``HGETALL`` round trip for the same
variables, and 20 ``GetVariable`` calls, one after the other, to a bridge server on loopback. Medians of rounds; the
sessions of ``by_sessions`` are synced in turn, and all are held and watched the while.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from statistics import median
from typing import Any

from redis.asyncio import Redis

from benchmarks._parts import ROOT
from snakepit_bridge.elixir.client import BridgeClient
from snakepit_bridge.process.home_loop import adopt_loop
from snakepit_bridge.protocol.messages import Requirement
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.variables import Variable
from workers.dev.redis_server import EmbeddedRedis

BOUND = [f"v{n}" for n in range(20)]
_ROUNDS = 7
# What one coroutine of a worker does before it lets others run, roughly.
_SYNCS = 500
_CHANGES = 60


def run() -> dict[str, Any]:
    """Return microseconds per sync."""
    with EmbeddedRedis.start() as redis, bridge_server() as address:
        return asyncio.run(_measure(redis.url, address))


@contextmanager
def bridge_server() -> Generator[str]:
    """Run a bridge server in a process of its own and yield its address."""
    command = [sys.executable, "-m", "benchmarks._bridge_server"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        assert server.stdout is not None
        assert server.stdin is not None
        try:
            yield f"127.0.0.1:{int(server.stdout.readline())}"
        finally:
            server.stdin.close()
            server.wait(10)


async def _measure(url: str, address: str) -> dict[str, Any]:
    # The replica lives on the process's one loop, as in a worker with the asyncio pool.
    adopt_loop(asyncio.get_running_loop())
    async with _held(url, sessions=1, variables=20) as few:
        figures: dict[str, Any] = {"warm_us": await few.warm(), "changed_us": await few.changed()}
        figures["hgetall_us"] = await _hgetall(url, few)
    figures["grpc20_us"] = await _grpc(address)
    sessions: dict[str, Sessions] = {}
    for count in (10, 10_000):
        async with _held(url, sessions=count, variables=20) as sessions[str(count)]:
            await sessions[str(count)].fill()
    variables: dict[str, Sessions] = {}
    for count in (20, 2_000):
        async with _held(url, sessions=1, variables=count) as variables[str(count)]:
            await variables[str(count)].fill()
    for name, each in (("by_sessions", sessions), ("by_variables", variables)):
        figures[name] = {count: held.warm_us for count, held in each.items()}
        figures[f"changed_{name}"] = {count: held.changed_us for count, held in each.items()}
    return figures


class Sessions:
    """Published sessions and the replica that holds them all."""

    def __init__(self, store: RedisStore, replica: Replica, names: list[str]) -> None:
        self.store, self.replica, self.names = store, replica, names
        self.warm_us = self.changed_us = 0.0
        self._published = 0

    async def fill(self) -> None:
        """Measure both kinds of sync."""
        self.warm_us, self.changed_us = await self.warm(), await self.changed()

    async def warm(self) -> float:
        """Return the microseconds of a sync that finds nothing new; the sessions take turns."""
        turn = [self.names[n * 7919 % len(self.names)] for n in range(_SYNCS)]

        async def syncs() -> None:
            for name in turn:
                await sync(self.replica, name)

        return await _per_call(syncs, _SYNCS)

    async def changed(self) -> float:
        """Return the microseconds of a sync right after a publish, which isn't counted."""
        spent: list[float] = []
        for n in range(_CHANGES):
            name = self.names[n * 7919 % len(self.names)]
            token = await self._publish(name)
            began = time.perf_counter()
            values = await sync(self.replica, name, Requirement.of(at_least=token))
            spent.append(time.perf_counter() - began)
            if values["v0"] != self._published:
                raise RuntimeError(f"synced {values['v0']} where {self._published} was published")
        return round(median(spent) * 1e6, 2)

    async def _publish(self, name: str) -> Token:
        self._published += 1
        return await self.store.publish(name, {"v0": Variable.declare("v0", self._published)})


async def sync(replica: Replica, session: str, requirement: Requirement | None = None) -> dict[str, Any]:
    """Return the present values of the bound variables."""
    snapshot = await (replica.snapshot(session) if requirement is None else replica.snapshot(session, requirement))
    return snapshot.values(BOUND)


@asynccontextmanager
async def _held(url: str, *, sessions: int, variables: int) -> AsyncGenerator[Sessions]:
    store = RedisStore(url, namespace=f"sync{sessions}x{variables}", timeout_s=30)
    replica = Replica(store, max_sessions=sessions + 1)
    names = [f"s{n}" for n in range(sessions)]
    state = {name: Variable.declare(name, 0.5) for name in (f"v{n}" for n in range(variables))}
    for start in range(0, sessions, 64):
        chunk = names[start : start + 64]
        await asyncio.gather(*(store.publish(name, state) for name in chunk))
        await asyncio.gather(*(sync(replica, name) for name in chunk))
    try:
        yield Sessions(store, replica, names)
    finally:
        await replica.aclose()
        await store.aclose()


async def _hgetall(url: str, few: Sessions) -> float:
    """One round trip for the same encoded variables, not even decoded."""
    key = f"sync1x20:{{s:{few.names[0]}}}:variables"
    async with Redis.from_url(url) as client:

        async def ask() -> None:
            answer: Any = await client.execute_command("HGETALL", key)
            if len(answer) != len(BOUND):
                raise RuntimeError(f"HGETALL answered {len(answer)} variables")

        return await _per_call(_times(ask, 100), 100)


async def _grpc(address: str) -> float:
    client = BridgeClient(address)

    async def ask() -> None:
        for name in BOUND:
            await client.get("s0", name)

    try:
        return await _per_call(_times(ask, 10), 10)
    finally:
        await client.aclose()


def _times(ask: Callable[[], Awaitable[None]], count: int) -> Callable[[], Awaitable[None]]:
    async def several() -> None:
        for _ in range(count):
            await ask()

    return several


async def _per_call(work: Callable[[], Awaitable[None]], calls: int) -> float:
    """Return the microseconds per call, the median of several rounds after one that warms up."""
    spent: list[float] = []
    for _ in range(_ROUNDS + 1):
        began = time.perf_counter()
        await work()
        spent.append((time.perf_counter() - began) / calls)
        await asyncio.sleep(0)  # what waits on the loop, such as the replica's own work, has its turn
    return round(median(spent[1:]) * 1e6, 2)
