"""Whoever publishes and then requires at least that token runs under it, whatever became of the notification."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.variables import Variable
from tests.harness.lines import LineProcess
from tests.integration.replica_process import LEASE_S
from workers.dev.redis_server import EmbeddedRedis

JOB = "tests.integration.replica_process"
READERS = 2
DROPPED = 0.5
CHAINS = 4


async def test_no_run_is_below_what_was_published_before_it(tmp_path: Path) -> None:
    await publish_and_run(tmp_path, 1_000, restarts=2, pauses=2)


@pytest.mark.soak
@pytest.mark.timeout(3600)
async def test_no_run_is_below_what_was_published_before_it_in_ten_thousand(tmp_path: Path) -> None:
    await publish_and_run(tmp_path, 10_000, restarts=10, pauses=10)


async def publish_and_run(folder: Path, pairs: int, *, restarts: int, pauses: int) -> None:
    with EmbeddedRedis.start(folder, aof=True) as server, ExitStack() as processes:
        readers = [processes.enter_context(LineProcess(JOB, "serve", server.url, DROPPED)) for _ in range(READERS)]
        assert [await asyncio.to_thread(reader.hear) for reader in readers] == [{"ready": True}] * READERS
        run = Run(server, readers)
        disturbances = [run.restart] * restarts + [run.pause] * pauses
        random.shuffle(disturbances)
        step = pairs // (len(disturbances) + 1)
        for disturb in [*disturbances, None]:
            await asyncio.gather(
                *(run.chain(f"s{n}", step // CHAINS) for n in range(CHAINS)), *([disturb()] if disturb else [])
            )
        await run.store.aclose()
    assert run.stale == []
    assert run.pairs >= pairs - CHAINS * (restarts + pauses + 1) - len(disturbances)
    assert run.paused_first > 0


class Run:
    """Publishes and requires, while the server and the readers are disturbed."""

    def __init__(self, server: EmbeddedRedis, readers: list[LineProcess]) -> None:
        self.server, self.readers = server, readers
        self.store = RedisStore(server.url)
        self.locks = [asyncio.Lock() for _ in readers]
        self.pairs = self.paused_first = self.n = 0
        self.stale: list[tuple[object, ...]] = []

    async def chain(self, session: str, pairs: int) -> None:
        for _ in range(pairs):
            self.n += 1
            n = self.n
            token = await self.publish(session, n)
            await self.require(random.randrange(READERS), session, token, n)

    async def publish(self, session: str, n: int) -> Token:
        while True:
            try:
                return await self.store.publish(session, {"n": Variable.declare("n", n)})
            except StoreUnavailableError:
                await asyncio.sleep(0.02)

    async def require(self, reader: int, session: str, token: Token, n: int) -> None:
        async with self.locks[reader]:
            await self.ask(reader, session, token, n)

    async def ask(self, reader: int, session: str, token: Token, n: int) -> None:
        while True:
            self.readers[reader].tell(f"{session} at_least={token}")
            answer = await asyncio.to_thread(self.readers[reader].hear)
            if answer.get("error") != "StoreUnavailableError":
                break
        self.pairs += 1
        if answer.get("value") != n or Token.parse(answer["token"]) < token:
            self.stale.append((reader, session, str(token), n, answer))

    async def restart(self) -> None:
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.restart)

    async def pause(self) -> None:
        """Stop a reader for longer than its lease; what it is asked first after that must be of now."""
        reader = random.randrange(READERS)
        async with paused(self.readers[reader], self.locks[reader]):
            self.n += 1
            n = self.n  # the chains count on meanwhile
            token = await self.publish("p", n)
            await asyncio.sleep(2 * LEASE_S)
            self.readers[reader].resume()
            await self.ask(reader, "p", token, n)
            self.paused_first += 1


@asynccontextmanager
async def paused(reader: LineProcess, lock: asyncio.Lock) -> AsyncGenerator[None]:
    async with lock:
        reader.pause()
        try:
            yield
        finally:
            reader.resume()
