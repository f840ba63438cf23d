"""A request id is applied once, even if the gateway that attempted it first died halfway."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import StaleTokenError, StoreUnavailableError, ValidationError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.variables import Variable
from tests.harness.waiting import PATIENCE_S
from workers.gateway.api.idempotent_publish import IdempotentPublisher, PublishCommand
from workers.gateway.api.request_ids import Attempt, RequestIds
from workers.gateway.errors import RequestIdConflictError


class Died(BaseException):
    """The process has died: nothing runs after this, and only expiry in Redis cleans up."""


def commit(value: int, *, reason: str = "", expected: Token | None = None) -> PublishCommand:
    variables = {"n": Variable.declare("n", value)}
    return PublishCommand("s", frozenset(variables), lambda _: variables, expected, "ann", reason)


@pytest.fixture
def fleet(redis_url: str) -> Fleet:
    return Fleet(redis_url)


@pytest.fixture
def store(fleet: Fleet) -> SnapshotStore:
    return fleet.store


async def once(fleet: Fleet, value: int, *, id: str = "r-1", owner: str = "a", **how: Any) -> Token:
    return await IdempotentPublisher(fleet).publish(owner, id, f"{value}".encode(), commit(value, **how))


async def dies_after(fleet: Fleet, moment: str, monkeypatch: pytest.MonkeyPatch, value: int) -> None:
    """Attempt a request in a process that dies after or before the commit."""

    async def died(*_: Any, **__: Any) -> Any:
        raise Died

    with monkeypatch.context() as patched:
        if moment == "the commit":
            patched.setattr(Attempt, "record_answer", died)
        else:
            patched.setattr(type(fleet.store), "publish", died)
        with pytest.raises(Died):
            await once(fleet, value)


async def test_an_attempt_that_died_after_its_commit_is_answered_with_that_commit(
    fleet: Fleet, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.publish("s", {"n": Variable.declare("n", 0)})
    await dies_after(fleet, "the commit", monkeypatch, 1)
    committed = (await store.head("s")).token
    await store.publish("s", {"n": Variable.declare("n", 7)})
    assert await once(fleet, 1) == committed
    assert (await store.read("s")).value("n") == 7
    assert await once(fleet, 1) == committed


async def test_an_attempt_that_died_before_its_commit_is_committed_by_the_next(
    fleet: Fleet, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.publish("s", {"n": Variable.declare("n", 0)})
    await dies_after(fleet, "its note", monkeypatch, 1)
    await store.publish("s", {"n": Variable.declare("n", 7)})
    token = await once(fleet, 1)
    assert token == (await store.head("s")).token
    assert (await store.read("s")).value("n") == 1


async def test_the_first_publish_of_a_session_is_recovered_as_well(
    fleet: Fleet, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await dies_after(fleet, "the commit", monkeypatch, 1)
    committed = (await store.head("s")).token
    assert await once(fleet, 1) == committed
    assert len(await store.history("s")) == 1


async def test_concurrent_attempts_are_one_commit(fleet: Fleet, store: SnapshotStore) -> None:
    tokens = await asyncio.gather(*(once(fleet, 1) for _ in range(8)))
    assert len(set(tokens)) == 1
    assert len(await store.history("s")) == 1


async def test_a_rejected_attempt_is_forgotten_so_that_its_id_can_be_reused(fleet: Fleet) -> None:
    def refuse(_: Any) -> Any:
        raise ValidationError("n", "that", "it can't")

    refused = PublishCommand("s", frozenset({"n"}), refuse, None, "", "")
    with pytest.raises(ValidationError):
        await IdempotentPublisher(fleet).publish("a", "r-1", b"refused", refused)
    await once(fleet, 1)


async def test_an_id_belongs_to_one_request_of_one_owner(fleet: Fleet) -> None:
    first = await once(fleet, 1)
    with pytest.raises(RequestIdConflictError):
        await once(fleet, 2)
    assert await once(fleet, 2, owner="b") > first


async def test_an_expected_token_is_compared_once_per_request(fleet: Fleet, store: SnapshotStore) -> None:
    base = await store.publish("s", {"n": Variable.declare("n", 0)})
    token = await once(fleet, 1, expected=base)
    assert await once(fleet, 1, expected=base) == token
    with pytest.raises(StaleTokenError):
        await once(fleet, 2, id="r-2", expected=base)


async def test_an_attempt_with_an_unknown_outcome_is_recorded(fleet: Fleet) -> None:
    ids = RequestIds(fleet.connection, fleet.namespace)

    async def unanswered() -> None:
        async with ids.attempt("a", "r-1", b"x") as tried:
            await tried.record_base("3.4")
            raise StoreUnavailableError("redis://x", "no answer")

    with pytest.raises(StoreUnavailableError):
        await unanswered()
    async with ids.attempt("a", "r-1", b"x") as tried:
        assert (tried.answer, tried.base) == (None, "3.4")


@pytest.mark.parametrize("wakes", ["before the next try's commit", "after it"])
async def test_an_attempt_paused_for_longer_than_its_lease_does_not_commit_again(
    fleet: Fleet, store: SnapshotStore, monkeypatch: pytest.MonkeyPatch, wakes: str
) -> None:
    await store.publish("s", {"n": Variable.declare("n", 0)})
    publish, about, wake = type(fleet.store).publish, asyncio.Event(), asyncio.Event()

    async def paused(*args: Any, **how: Any) -> Token:
        if not about.is_set():
            about.set()
            await wake.wait()
        elif wakes.startswith("before"):
            wake.set()
            await first
        return await publish(*args, **how)

    monkeypatch.setattr(type(fleet.store), "publish", paused)
    first = asyncio.create_task(once(fleet, 1))
    await about.wait()
    client = fleet.connection.client
    await client.delete(*await client.keys("*:turn"))  # as the lease expires while the process is paused
    second = await once(fleet, 1)
    await publish(store, "s", {"n": Variable.declare("n", 7)})
    wake.set()
    assert await first == second
    assert [change.after["n"].value for change in await store.history("s")] == [7, 1, 0]


async def test_a_caller_that_disconnects_while_acquiring_the_lease_leaves_it_free(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    ids = RequestIds(fleet.connection, fleet.namespace)

    async def held() -> None:
        async with ids.attempt("a", "r-1", b"x"):
            await asyncio.sleep(60)

    for pause in [0.0, *(n / 2000 for n in range(20))]:
        trying = asyncio.create_task(held())
        await asyncio.sleep(pause)
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)
        async with asyncio.timeout(PATIENCE_S), ids.attempt("a", "r-1", b"x"):
            pass
