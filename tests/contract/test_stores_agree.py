"""Whatever happens to a session, every store makes the same of it."""

from __future__ import annotations

import random
from collections.abc import Awaitable
from typing import Any

import pytest

from snakepit_bridge.exceptions import CheckFailedError, SessionError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import MemoryStore, RedisStore, Retention, SnapshotStore
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable

STEPS = 150
LABELS = ("stable", "canary")
FEW = {"maxProperties": 3}


class Observer:
    """Does one course of events to a store and notes what came of it, revisions without their epochs."""

    def __init__(self, store: SnapshotStore, seed: int) -> None:
        self.store = store
        self.random = random.Random(seed)
        self.have: Snapshot | None = None
        self.tokens: list[Token] = []

    async def step(self) -> Any:
        # Drawn whatever the outcome, so that two observers of one seed always do the same.
        names = self.random.sample("abcdef", self.random.randint(0, 3))
        changes = {n: self.random.choice([None, Variable.declare(n, self.random.randint(0, 2))]) for n in names}
        replace, expects, choice = self.random.random() < 0.2, self.random.random() < 0.3, self.random.random()
        earlier = self.random.choice(self.tokens) if self.tokens else Token(0, 0)
        expected = earlier if expects else None
        publisher = "elixir" if self.random.random() < 0.05 else "store"
        label = self.random.choice(LABELS)
        if choice < 0.5:
            return await self.commit(
                self.store.publish("s", changes, replace=replace, expected=expected, publisher=publisher)
            )
        if choice < 0.6:
            to = self.random.choice([earlier, label, str(earlier)])
            return await self.commit(self.store.rollback("s", to, expected=expected))
        if choice < 0.7:
            return await self.commit(self.store.label("s", label, earlier, expected=expected))
        if choice < 0.72:
            return await self.outcome(self.store.unlabel("s", label))
        if choice < 0.74:
            return await self.outcome(self.store.retain("s", self.random.choice([None, Retention(3)])))
        if choice < 0.75:
            return await self.outcome(self.store.declare_checks("s", {"few": self.random.choice([FEW, None])}))
        if choice < 0.77:
            return await self.store.drop("s")
        return await self.look(earlier)

    async def commit(self, publishing: Awaitable[Token]) -> Any:
        try:
            token = await publishing
        except (SessionError, CheckFailedError) as error:
            return type(error)
        self.tokens.append(token)
        return token.revision

    async def outcome(self, doing: Awaitable[None]) -> Any:
        try:
            return await doing
        except (SessionError, CheckFailedError) as error:
            return type(error)

    async def look(self, earlier: Token) -> Any:
        try:
            self.have = await self.store.read("s", self.have)
            past = await self.store.read_at("s", earlier)
            changes = await self.store.history("s", 3)
            labels = {name: label.token.revision for name, label in (await self.store.labels("s")).items()}
            labels |= {name: (await self.store.read_at("s", name)).digest for name in labels}
        except SessionError as error:
            return type(error), self.have and self.have.digest
        seen = [(change.token.revision, change.before, change.after) for change in changes]
        return self.have.token.revision, self.have.digest, past.digest, seen, labels


@pytest.mark.parametrize("seed", range(6))
async def test_every_course_of_events_ends_alike_on_every_store(redis_url: str, seed: int) -> None:
    redis = RedisStore(redis_url, retention=10)
    observers = [Observer(MemoryStore(retention=10), seed), Observer(redis, seed)]
    for _ in range(STEPS):
        in_memory, on_redis = [await observer.step() for observer in observers]
        assert in_memory == on_redis
    assert len(observers[0].tokens) > STEPS / 4
    await redis.aclose()
