"""Whatever many await together, each of them gets an error of its own when it fails."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.exceptions import (
    RevisionNotReachedError,
    SessionNotFoundError,
    StoreUnavailableError,
)
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.protocol.messages import Requirement
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.pipeliner import Pipeliner
from snakepit_bridge.redis.pubsub import Subscription
from snakepit_bridge.snapshots import MemoryStore
from snakepit_bridge.snapshots.replica import Replica
from tasks.cancellation import CancellationRegistry
from tasks.rate_limits.leases import LimitLeases
from tasks.rate_limits.rules import Rules
from tasks.rate_limits.store import LimitStore
from tests.harness.waiting import PATIENCE_S

MANY = 20


async def together(ask: Callable[[], Awaitable[Any]]) -> list[BaseException]:
    """Has many tasks ask at once, and returns what each raised."""

    async def call() -> Any:
        return await ask()

    found = await asyncio.gather(*(call() for _ in range(MANY)), return_exceptions=True)
    raised = [each for each in found if isinstance(each, BaseException)]
    assert len(raised) == MANY, f"not all failed: {found}"
    return raised


def assert_each_its_own(raised: Iterable[BaseException], kind: type[BaseException]) -> None:
    raised = list(raised)
    assert {type(each) for each in raised} == {kind}
    assert len({str(each) for each in raised}) == 1
    assert len({id(each) for each in raised}) == len(raised), "several tasks raised one and the same error"


@pytest.fixture
async def nowhere() -> AsyncIterator[RedisConnection]:
    """The way to a server that isn't there."""
    connection = RedisConnection("redis://127.0.0.1:9/0", timeout_s=1.0)
    yield connection
    await connection.aclose()


class Slow(MemoryStore):
    """A store whose reads take so long that others come for them too."""

    async def read(self, session: str, have: Any = None) -> Any:
        await asyncio.sleep(0.01)
        return await super().read(session, have)


class Held(MemoryStore):
    """A store whose reads wait until they may go on."""

    def __init__(self) -> None:
        super().__init__()
        self.asked_for, self.go_on = asyncio.Event(), asyncio.Event()

    async def read(self, session: str, have: Any = None) -> Any:
        self.asked_for.set()
        await self.go_on.wait()
        return await super().read(session, have)


async def test_a_session_that_nobody_published() -> None:
    replica = Replica(Slow())
    assert_each_its_own(await together(lambda: replica.snapshot("never")), SessionNotFoundError)
    await replica.aclose()


async def test_a_revision_that_does_not_come() -> None:
    replica = Replica(Slow(), 0.05)
    requirement = Requirement("at_least", Token(1, 1))
    raised = await together(lambda: replica.snapshot("never", requirement))
    assert {type(each) for each in raised} <= {SessionNotFoundError, RevisionNotReachedError}
    assert len({id(each) for each in raised}) == MANY
    await replica.aclose()


async def test_a_store_that_is_away(nowhere: RedisConnection) -> None:
    for ask in (lambda: nowhere.execute("GET", "a"), lambda: nowhere.execute_read("GET", "a")):
        assert_each_its_own(await together(ask), StoreUnavailableError)


async def test_a_command_that_the_server_refuses() -> None:
    async def refuse(commands: Any) -> list[Any]:
        return [LookupError("refused")] * len(commands)

    tick = Pipeliner(refuse)
    assert_each_its_own(await together(lambda: tick.execute_read(("GET", "a"))), LookupError)


async def test_a_program_that_cant_be_looked_up(nowhere: RedisConnection) -> None:
    registry = ProgramRegistry(nowhere)
    assert_each_its_own(await together(lambda: registry.get("qa")), StoreUnavailableError)


async def test_a_look_whether_a_prediction_is_still_wanted(nowhere: RedisConnection) -> None:
    running = CancellationRegistry(nowhere, Subscription(nowhere), namespace="dspex")
    assert_each_its_own(await together(lambda: running._has_ended("task")), StoreUnavailableError)


async def test_limits_that_cant_be_read(nowhere: RedisConnection) -> None:
    class Away(MemoryStore):
        async def read(self, session: str, have: Any = None) -> Any:
            await asyncio.sleep(0.01)
            raise StoreUnavailableError("memory://", "it is away")

    replica, signals = Replica(Away()), Subscription(nowhere)
    presence = LimitLeases(LimitStore(nowhere, "dspex", None), Rules({}), replica, signals)
    assert_each_its_own(await together(presence.begin), StoreUnavailableError)
    await presence.aclose()
    await signals.aclose()
    await replica.aclose()


async def test_a_channel_that_cant_be_listened_to(nowhere: RedisConnection) -> None:
    subscription = Subscription(nowhere)
    assert_each_its_own(
        await together(lambda: subscription.subscribe("channel", lambda _: None)), StoreUnavailableError
    )


async def test_one_who_leaves_takes_nothing_from_the_others() -> None:
    # All on the loop that reads the store: an event that is set from another thread may go unseen.
    await run_on_home_loop(_leave_the_others())


async def _leave_the_others() -> None:
    store = Held()
    replica = Replica(store)
    asking = [asyncio.ensure_future(replica.snapshot("never")) for _ in range(3)]
    await asyncio.wait_for(store.asked_for.wait(), PATIENCE_S)
    asking[0].cancel()
    store.go_on.set()
    found = await asyncio.gather(*asking, return_exceptions=True)
    assert [type(each) for each in found] == [asyncio.CancelledError, SessionNotFoundError, SessionNotFoundError]
    await replica.aclose()


# Where one alone awaits what is shielded.
SHIELDED = {"snakepit_bridge/redis/lease.py", "snakepit_bridge/elixir/write_back.py"}


def test_what_several_await_is_shared_and_not_shielded() -> None:
    """``asyncio.shield`` raises one instance in all who wait; ``share_future`` doesn't."""
    root = Path(__file__).parents[2]
    found = {
        str(path.relative_to(root))
        for package in ("snakepit_bridge", "tasks", "workers")
        for path in (root / package).rglob("*.py")
        if "asyncio.shield(" in path.read_text(encoding="utf-8")
    }
    assert found == SHIELDED, "use snakepit_bridge.process.home_loop.share, unless one alone awaits it"
