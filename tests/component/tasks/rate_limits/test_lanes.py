"""A task that must wait leaves its worker with its message, waits in its session's lane, and returns with a place."""

from __future__ import annotations

import asyncio
from typing import Any
from uuid import uuid4

import pytest

from snakepit_bridge.redis.pubsub import Subscription, text_handler
from tasks.rate_limits.protocol import Caller
from tasks.rate_limits.rules import Bucket, LimitValues, build_buckets
from tasks.rate_limits.scheduler import SessionQueues
from tasks.rate_limits.store import Costs, Granted, LimitRefusal, LimitStore, NotHeld, Released
from tests.component.tasks.rate_limits.conftest import Broker, Clock, Task
from tests.harness.waiting import PATIENCE_S, eventually

MINUTE = 60_000
READY = "dspex:{limits}:ready:process"
FREE = Costs(0.0, 0.0)
ONE = build_buckets("p", "demo", LimitValues(concurrency=1))


async def start(
    store: LimitStore, task: Caller, rules: Any = ONE, costs: Costs = FREE, permit: str = ""
) -> Granted | LimitRefusal | NotHeld:
    return await store.start(task, permit or uuid4().hex, "demo", costs, rules, READY)


async def release(store: LimitStore, session: str = "s", rules: Any = ONE, budget: float = 1e9) -> Released:
    return await store.release("demo", session, budget, 64, 64, rules)


async def test_a_task_that_must_wait_leaves_its_worker_and_comes_back_with_a_reservation(
    store: LimitStore, broker: Broker, clock: Clock
) -> None:
    assert isinstance(await start(store, await broker.claimed("first"), permit="first"), Granted)
    assert isinstance(await start(store, await broker.claimed("second")), LimitRefusal)
    assert await broker.held() == ["message of first"]
    assert await broker.queued() == []
    assert await store.count_parked() == {"demo": 1}
    assert (await release(store)).stop_reason == "p"

    await store.settle("first", FREE)
    released = await release(store)
    assert (released.count, released.stop_reason) == (1, "empty")
    assert await broker.queued() == ["message of second"]
    assert await store.count_parked() == {}
    assert isinstance(await start(store, await broker.claimed("third")), LimitRefusal), "the place is reserved"
    assert isinstance(await start(store, await broker.claimed("second"), permit="mine"), Granted)
    assert isinstance(await start(store, await broker.claimed("second"), permit="mine"), Granted), "its answer was lost"


async def test_what_comes_back_comes_before_what_waits_in_the_queue(
    store: LimitStore, broker: Broker, clock: Clock
) -> None:
    client: Any = store.connection.client
    await client.lpush("predictions", "older", "newer")
    blocked = build_buckets("p", "demo", LimitValues(concurrency=0))
    await start(store, await broker.claimed("parked"), blocked)
    await release(store, rules=())
    assert await broker.queued() == ["message of parked", "older", "newer"]
    await client.delete("predictions")


async def test_a_message_returns_to_the_list_of_its_own_priority(
    store: LimitStore, broker: Broker, clock: Clock
) -> None:
    blocked = build_buckets("p", "demo", LimitValues(concurrency=0))
    await start(store, await broker.claimed("urgent", queue="predictions\x06\x163"), blocked)
    await release(store, rules=())
    assert await broker.queued("predictions\x06\x163") == ["message of urgent"]


async def test_nobody_overtakes_those_whom_the_profile_holds_up(
    store: LimitStore, broker: Broker, clock: Clock
) -> None:
    await start(store, await broker.claimed("running"), permit="running")
    await start(store, await broker.claimed("parked", session="patient"))
    await store.settle("running", FREE)
    newcomer = await start(store, await broker.claimed("newcomer", session="hasty"))
    assert isinstance(newcomer, LimitRefusal), "there is room, but somebody waits for it"
    assert (await release(store, "patient")).count == 1


async def test_a_session_at_its_own_limit_holds_up_nobody_else(store: LimitStore, broker: Broker, clock: Clock) -> None:
    own = build_buckets("s", "busy", LimitValues(concurrency=1))
    everyone = build_buckets("p", "demo", LimitValues(concurrency=10))
    for name in ("one", "two"):
        answer = await start(store, await broker.claimed(name, session="busy"), everyone + own)
    assert isinstance(answer, LimitRefusal)
    assert answer.scope == "s"
    assert isinstance(await start(store, await broker.claimed("other", session="idle"), everyone), Granted)
    behind = await start(store, await broker.claimed("three", session="busy"), everyone)
    assert isinstance(behind, LimitRefusal), "within a session nobody overtakes"


async def test_within_a_session_the_priority_decides(store: LimitStore, broker: Broker, clock: Clock) -> None:
    nothing = build_buckets("p", "demo", LimitValues(concurrency=0))
    for name, priority in (("late", 0), ("soon", 5), ("now", 9), ("soon too", 5)):
        await start(store, await broker.claimed(name, priority=priority), nothing)
        await clock.pass_by(1)
    await release(store, rules=())
    order = [message.removeprefix("message of ") for message in await broker.queued()]
    assert order[::-1] == ["now", "soon", "soon too", "late"]


async def test_a_claim_that_was_lost_moves_nothing(store: LimitStore, broker: Broker, clock: Clock) -> None:
    nothing = build_buckets("p", "demo", LimitValues(concurrency=0))
    assert isinstance(await start(store, Task("zombie", claim="worker.99"), nothing), NotHeld)
    assert await store.count_parked() == {}


async def test_a_second_copy_of_a_parked_message_adds_nothing(store: LimitStore, broker: Broker, clock: Clock) -> None:
    nothing = build_buckets("p", "demo", LimitValues(concurrency=0))
    for _ in range(2):
        await start(store, await broker.claimed("twice"), nothing)
    assert await store.count_parked() == {"demo": 1}
    assert (await release(store, rules=())).count == 1
    assert await broker.queued() == ["message of twice"]


async def test_an_expired_task_comes_back_by_itself_and_a_cancelled_one_by_name(
    store: LimitStore, broker: Broker, clock: Clock
) -> None:
    nothing = build_buckets("p", "demo", LimitValues(concurrency=0))
    await start(store, await broker.claimed("late", deadline=1_800_000_001.0), nothing)
    await start(store, await broker.claimed("cancelled"), nothing)
    await start(store, await broker.claimed("patient", deadline=1_800_000_900.0), nothing)
    assert await store.unpark() == 0
    await clock.pass_by(1_001)
    assert await store.unpark() == 1
    assert await store.unpark("cancelled", "unknown") == 1
    assert await broker.queued() == ["message of cancelled", "message of late"]
    assert await store.count_parked() == {"demo": 1}


async def test_a_reservation_that_nobody_uses_comes_back_whole(store: LimitStore, broker: Broker, clock: Clock) -> None:
    rules = (*ONE, Bucket("p:demo:tokens", "p", 2, 10 * MINUTE, 100, paced=False))
    await start(store, await broker.claimed("first"), rules, Costs(60, 0), permit="first")
    await start(store, await broker.claimed("lost"), rules, Costs(40, 0))
    await store.settle("first", Costs(60, 0))
    assert (await release(store, rules=rules)).count == 1
    await clock.pass_by(30_001)
    assert isinstance(await store.admit("next", "demo", Costs(40, 0), rules), Granted)


@pytest.mark.parametrize("end", ["cancelled", "failed"])
async def test_a_released_task_that_never_starts_gives_its_reservation_back_at_once(
    store: LimitStore, broker: Broker, clock: Clock, end: str
) -> None:
    await start(store, await broker.claimed("first"), permit="first")
    await start(store, await broker.claimed("second"))
    await store.settle("first", FREE)
    await release(store)
    await (store.unpark("second") if end == "cancelled" else store.leave("second"))
    assert isinstance(await start(store, await broker.claimed("third")), Granted)


async def test_a_reserved_task_waits_again_if_its_profile_is_paused_meanwhile(
    store: LimitStore, broker: Broker, clock: Clock
) -> None:
    await start(store, await broker.claimed("first"), permit="first")
    await start(store, await broker.claimed("second"))
    await store.settle("first", FREE)
    await release(store)
    await store.pause("demo", 3)
    assert isinstance(await start(store, await broker.claimed("second")), LimitRefusal)
    await clock.pass_by(3_001)
    assert (await release(store)).count == 1


async def test_calls_that_hold_a_slot_come_before_tasks_that_hold_none(
    store: LimitStore, broker: Broker, clock: Clock
) -> None:
    await start(store, await broker.claimed("first"), permit="first")
    assert isinstance(await store.admit("second step", "demo", FREE, ONE), LimitRefusal)
    await start(store, await broker.claimed("parked"))
    await store.settle("first", FREE)
    assert (await release(store)).stop_reason == "p"
    assert isinstance(await store.admit("second step", "demo", FREE, ONE), Granted)


async def test_only_so_many_are_released_ahead_of_the_workers(store: LimitStore, broker: Broker, clock: Clock) -> None:
    nothing = build_buckets("p", "demo", LimitValues(concurrency=0))
    for n in range(5):
        await start(store, await broker.claimed(f"t{n}"), nothing)
    plenty = build_buckets("p", "demo", LimitValues(concurrency=100))
    assert (await store.release("demo", "s", 1e9, 64, 2, plenty)).count == 2
    assert isinstance(await start(store, await broker.claimed("t0"), plenty), Granted)
    assert (await store.release("demo", "s", 1e9, 64, 2, plenty)).count == 1


async def served(store: LimitStore, lanes: SessionQueues, broker: Broker, clock: Clock, passes: int) -> list[str]:
    """The tasks that come out while time passes, in order; each starts and ends at once."""
    order = list[str]()
    client: Any = store.connection.client
    for _ in range(passes):
        await lanes.serve()
        for message in reversed(await client.lrange("predictions", 0, -1)):
            order.append(message.decode().removeprefix("message of "))
            permit = uuid4().hex
            assert isinstance(await start(store, Task(order[-1], claim="worker.0"), permit=permit), Granted)
            await store.settle(permit, None)
        await client.delete("predictions")
        await clock.pass_by(100)
    return order


async def test_sessions_take_turns_whoever_came_first(store: LimitStore, broker: Broker, clock: Clock) -> None:
    nothing = build_buckets("p", "demo", LimitValues(requests_per_min=0))
    for n in range(30):
        await start(store, await broker.claimed(f"flood-{n}", session="flood"), nothing)
    for n in range(5):
        for session in ("a", "b"):
            await start(store, await broker.claimed(f"{session}-{n}", session=session), nothing)

    async def rules(profile: str, session: str) -> Any:
        return build_buckets("p", profile, LimitValues(requests_per_min=600))

    order = await served(store, SessionQueues("demo", store, rules), broker, clock, 20)
    first = [name.partition("-")[0] for name in order[:15]]
    assert {session: first.count(session) for session in ("flood", "a", "b")} == {"flood": 5, "a": 5, "b": 5}


async def test_a_session_of_large_calls_gets_the_same_share_in_fewer_of_them(
    store: LimitStore, broker: Broker, clock: Clock
) -> None:
    nothing = build_buckets("p", "demo", LimitValues(tokens_per_min=0))
    for n in range(40):
        await start(store, await broker.claimed(f"small-{n}", session="small"), nothing, Costs(100, 0))
        await start(store, await broker.claimed(f"large-{n}", session="large"), nothing, Costs(400, 0))

    async def rules(profile: str, session: str) -> Any:
        return build_buckets("p", profile, LimitValues(tokens_per_min=300_000))

    order = await served(store, SessionQueues("demo", store, rules), broker, clock, 10)
    counts = {session: sum(name.startswith(session) for name in order) for session in ("small", "large")}
    assert counts["large"] >= 5
    assert 3 <= counts["small"] / counts["large"] <= 5


async def test_a_task_without_a_claim_waits_in_its_lane_and_its_process_is_told_of_its_turn(
    store: LimitStore, broker: Broker, clock: Clock
) -> None:
    heard = asyncio.Queue[str]()
    signals = Subscription(store.connection)
    signals.register(READY, text_handler(heard.put_nowait))
    signals.start()
    await eventually(lambda: subscribed(store), "the process listens")
    await start(store, Task("first"), permit="first")
    assert isinstance(await start(store, Task("second")), LimitRefusal)
    assert isinstance(await start(store, Task("second")), LimitRefusal)
    assert await store.count_parked() == {"demo": 1}
    await store.settle("first", FREE)
    assert isinstance(await start(store, Task("second")), LimitRefusal), "its turn is for the mover to give"
    assert (await release(store)).count == 1
    assert await asyncio.wait_for(heard.get(), PATIENCE_S) == "second"
    assert isinstance(await start(store, Task("second"), permit="second"), Granted)
    await signals.aclose()


async def test_whoever_stops_waiting_in_place_leaves_nothing_behind(
    store: LimitStore, broker: Broker, clock: Clock
) -> None:
    await start(store, Task("first"), permit="first")
    for name in ("second", "third"):
        await start(store, Task(name))
    await store.leave("second")
    assert await store.count_parked() == {"demo": 1}
    await store.settle("first", FREE)
    await release(store)
    await store.leave("third")
    assert await store.count_parked() == {}
    assert isinstance(await start(store, Task("fourth")), Granted)


async def test_the_place_of_a_task_whose_process_died_is_passed_over(
    store: LimitStore, broker: Broker, clock: Clock
) -> None:
    nothing = build_buckets("p", "demo", LimitValues(concurrency=0))
    for name in ("dead", "alive"):
        await start(store, Task(name), nothing)
    await clock.pass_by(9_000)
    await store.send_heartbeat("process", waiting=["alive"])
    await clock.pass_by(2_000)
    assert (await release(store, rules=())).count == 1
    assert isinstance(await start(store, Task("alive"), permit="mine"), Granted)


async def test_a_message_takes_the_place_of_the_same_task_that_waited_in_a_process(
    store: LimitStore, broker: Broker, clock: Clock
) -> None:
    nothing = build_buckets("p", "demo", LimitValues(concurrency=0))
    await start(store, Task("one of a batch"), nothing)
    await start(store, await broker.claimed("one of a batch"), nothing)
    assert await store.count_parked() == {"demo": 1}
    await clock.pass_by(60_000)
    assert (await release(store, rules=())).count == 1
    assert await broker.queued() == ["message of one of a batch"]


async def subscribed(store: LimitStore) -> bool:
    client: Any = store.connection.client
    return bool(await client.pubsub_channels(READY))
