"""Admission as one process sees it: what it asks Redis for, how long a call waits, and what comes of its end."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from snakepit_bridge.costs.usage import Price
from snakepit_bridge.exceptions import DeadlineExceededError, StoreUnavailableError
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.outages import retry_through_outages
from snakepit_bridge.redis.pubsub import Subscription
from snakepit_bridge.snapshots.redis_store import RedisStore
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.variables import Variable
from tasks.rate_limits.admission import FleetAdmission
from tasks.rate_limits.leases import LimitLeases
from tasks.rate_limits.protocol import Estimate, Parked, Permit, Used
from tasks.rate_limits.rules import FLEET_SESSION, LimitValues, Rules
from tasks.rate_limits.store import Costs, LimitStore
from tests.component.tasks.rate_limits.conftest import Broker, Task
from tests.harness.spans import recorded_spans
from tests.harness.waiting import PATIENCE_S, Stopwatch, eventually

SHORT = Estimate(400)
PRICES = {("demo", ""): Price.of(input=10, output=30), ("demo", "mini"): Price.of(input=1, output=3)}


class Process:
    """What one worker process has of the limits."""

    def __init__(self, store: LimitStore, url: str, **limits: float) -> None:
        self.snapshots = RedisStore(url, namespace="dspex")
        self.replica = Replica(self.snapshots)
        self.cancels = Subscription(store.connection)
        self.presence = LimitLeases(store, Rules({"demo": LimitValues(**limits)}), self.replica, self.cancels)
        self.admission = FleetAdmission(self.presence, PRICES)

    async def publish(self, session: str, **values: Any) -> None:
        changes = {name.replace("__", "."): value for name, value in values.items()}
        await self.snapshots.publish(session, {name: Variable.declare(name, value) for name, value in changes.items()})

    async def aclose(self) -> None:
        await self.admission.aclose()
        await self.cancels.aclose()
        await self.replica.aclose()


@pytest.fixture
async def process(store: LimitStore, redis_url: str) -> AsyncGenerator[Process]:
    process = Process(store, redis_url)
    yield process
    await process.aclose()


async def granted(
    admission: FleetAdmission, task: Task, within_s: float = 12.0, *, estimate: Estimate = SHORT
) -> Permit:
    return await asyncio.wait_for(admission.admit(task, "demo", estimate), within_s)


async def waits(admission: FleetAdmission, task: Task, seconds: float = 0.3) -> asyncio.Task[Permit]:
    """A call that has to wait, for as long as it does."""
    call = asyncio.create_task(admission.admit(task, "demo", SHORT))
    done, _ = await asyncio.wait([call], timeout=seconds)
    assert not done
    return call


async def test_where_no_limit_concerns_a_call_redis_is_not_asked(
    store: LimitStore, process: Process, monkeypatch: pytest.MonkeyPatch
) -> None:
    admission, scripts, ask = process.admission, list[str](), store._run

    async def counted(name: str, *args: Any) -> Any:
        if name != "beat":
            scripts.append(name)
        return await ask(name, *args)

    monkeypatch.setattr(store, "_run", counted)
    for n in range(20):
        permit = await admission.admit(Task(f"t{n}"), "demo", SHORT)
        assert permit == Permit("demo")
        await admission.settle(permit, Used(10, 10))
    assert {*scripts} <= {"let_go"}, "what the mover asks, if this process leads"
    await process.publish(FLEET_SESSION, dspex__limits__demo__concurrency=5)
    await eventually(lambda: asks_to_admit(admission, scripts), "a limited call asks")


async def asks_to_admit(admission: FleetAdmission, scripts: list[str]) -> bool:
    permit = await admission.admit(Task("limited"), "demo", SHORT)
    await admission.settle(permit, Used(10, 10))
    return "admit" in scripts


async def test_a_published_limit_holds_within_a_second_and_so_does_its_end(process: Process) -> None:
    admission = process.admission
    await granted(admission, Task("before"))
    await process.publish(FLEET_SESSION, dspex__limits__demo__concurrency=0)
    started = Stopwatch()

    async def is_limited() -> bool:
        call = asyncio.create_task(admission.admit(Task("try"), "demo", SHORT))
        done, _ = await asyncio.wait([call], timeout=0.05)
        call.cancel()
        return not done

    await eventually(is_limited, "the limit holds")
    assert started.elapsed_s < 1
    waiting = await waits(admission, Task("waiting"))
    await process.publish(FLEET_SESSION, dspex__limits__demo__concurrency=-1)
    await asyncio.wait_for(waiting, 1)
    assert (await granted(admission, Task("after"))).id == ""


async def test_a_session_limits_itself_over_all_profiles(store: LimitStore, process: Process) -> None:
    admission = process.admission
    own = Task("one", "alice", variables=(("dspex.limits.concurrency", 1),))
    other = Task("two", "bob")
    first = await granted(admission, own)
    waiting = await waits(admission, own)
    await granted(admission, other)
    await admission.settle(first, Used(1, 1))
    assert (await asyncio.wait_for(waiting, 2)).id


async def test_a_value_that_is_no_limit_is_told_of_and_the_files_holds_on(
    store: LimitStore, redis_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    process = Process(store, redis_url, concurrency=1)
    await process.publish(FLEET_SESSION, dspex__limits__demo__concurrency="many")
    await granted(process.admission, Task("first"))
    (await waits(process.admission, Task("second"))).cancel()
    assert "'dspex.limits.demo.concurrency' is 'many', which is no limit" in caplog.text
    await process.aclose()


async def test_a_call_waits_until_its_deadline_and_no_longer(store: LimitStore, redis_url: str) -> None:
    process = Process(store, redis_url, concurrency=0)
    with pytest.raises(DeadlineExceededError):
        await granted(process.admission, Task("late", deadline=time.time() + 0.2), 2)
    with pytest.raises(DeadlineExceededError):
        await process.admission.before_start(Task("late", deadline=time.time() + 0.2), "demo", SHORT)
    assert await eventually(lambda: gone(store), "it left its lane")
    await process.aclose()


async def gone(store: LimitStore) -> bool:
    return await store.count_parked() == {}


async def test_the_time_that_a_call_waits_is_a_span_and_a_call_that_needn_t_wait_has_none(
    store: LimitStore, redis_url: str
) -> None:
    process = Process(store, redis_url, concurrency=1)
    with recorded_spans() as exporter:
        first = await granted(process.admission, Task("first"))
        assert not exporter.get_finished_spans()
        waiting = asyncio.create_task(process.admission.before_start(Task("second"), "demo", SHORT))
        await eventually(lambda: parked(store), "it waits")
        await process.admission.settle(first, Used(1, 1))
        await waiting
        (span,) = exporter.get_finished_spans()
    assert (span.name, dict(span.attributes or {})) == ("wait_for_limit", {"dspex.profile": "demo"})
    assert span.status.is_unset
    await process.aclose()


async def test_a_cancelled_wait_takes_nothing_with_it(store: LimitStore, redis_url: str) -> None:
    process = Process(store, redis_url, concurrency=1)
    first = await granted(process.admission, Task("first"))
    waiting = asyncio.create_task(process.admission.before_start(Task("second"), "demo", SHORT))
    await eventually(lambda: parked(store), "it waits")
    waiting.cancel()
    await eventually(lambda: gone(store), "it left its lane")
    await process.admission.settle(first, Used(1, 1))
    assert (await granted(process.admission, Task("third"))).id
    await process.aclose()


async def parked(store: LimitStore) -> bool:
    return await store.count_parked() == {"demo": 1}


async def test_first_calls_that_wait_in_place_get_their_turn_by_session(store: LimitStore, redis_url: str) -> None:
    process = Process(store, redis_url, concurrency=1)
    order = list[str]()

    async def predict(name: str, session: str) -> None:
        answer = await process.admission.before_start(Task(name, session), "demo", SHORT)
        assert isinstance(answer, Permit)
        order.append(name)
        await process.admission.settle(answer, Used(1, 1))

    first = await granted(process.admission, Task("first"))
    flood = [asyncio.create_task(predict(f"flood-{n}", "flood")) for n in range(10)]
    await eventually(lambda: so_many_wait(store, 10), "the flood waits")
    late = asyncio.create_task(predict("late", "late"))
    await eventually(lambda: is_served_in_turn(process, "late"), "the other waits")
    await process.admission.settle(first, Used(1, 1))
    await eventually(lambda: have_ended(*flood, late), "all have had their turn")
    assert order.index("late") <= 3
    await process.aclose()


async def have_ended(*tasks: asyncio.Task[None]) -> bool:
    return all(task.done() and task.result() is None for task in tasks)


async def is_served_in_turn(process: Process, session: str) -> bool:
    """Whether the scheduler knows of a session that waits; it lists them only every so often."""
    queues = process.presence._scheduler._queues.get("demo")
    return queues is not None and session in queues._order


async def so_many_wait(store: LimitStore, count: int) -> bool:
    return (await store.count_parked()).get("demo", 0) == count


async def test_a_parked_task_comes_back_when_there_is_room(store: LimitStore, broker: Broker, redis_url: str) -> None:
    process = Process(store, redis_url, concurrency=1)
    admission = process.admission
    first = await admission.before_start(await broker.claimed("first"), "demo", SHORT)
    assert isinstance(first, Permit)
    assert isinstance(await admission.before_start(await broker.claimed("second"), "demo", SHORT), Parked)
    await admission.settle(first, Used(1, 1))
    await eventually(lambda: queued(broker, "message of second"), "it comes back", timeout_s=3)
    assert isinstance(await admission.before_start(await broker.claimed("second"), "demo", SHORT), Permit)
    await process.aclose()


async def queued(broker: Broker, message: str) -> bool:
    return message in await broker.queued()


async def test_another_process_moves_when_the_mover_died(store: LimitStore, broker: Broker, redis_url: str) -> None:
    killed, other = Process(store, redis_url, concurrency=1), Process(store, redis_url, concurrency=1)
    first = await killed.admission.before_start(await broker.claimed("first"), "demo", SHORT)
    assert isinstance(first, Permit)
    await eventually(lambda: leads(killed), "the first moves")
    await other.admission.begin()
    assert isinstance(await killed.admission.before_start(await broker.claimed("second"), "demo", SHORT), Parked)
    await killed.aclose()
    await store.settle(first.id, Costs(1, 0))
    await eventually(lambda: queued(broker, "message of second"), "the other moves it", timeout_s=8)
    await other.aclose()


async def leads(process: Process) -> bool:
    return "mover" in process.presence._running


async def test_a_pause_that_one_process_is_asked_for_holds_in_all_at_once(store: LimitStore, redis_url: str) -> None:
    paused, other = Process(store, redis_url), Process(store, redis_url)
    await paused.admission.begin()
    await granted(other.admission, Task("before"))
    await eventually(lambda: listening(store, 2), "both listen")
    await paused.admission.pause("demo", 1.0)
    await eventually(lambda: is_paused(other), "the other hears it", timeout_s=0.5)
    started = time.monotonic()
    await granted(other.admission, Task("after"))
    assert time.monotonic() - started > 0.4
    assert (await other.admission.admit(Task("another"), "other profile", SHORT)).id == ""
    for process in (paused, other):
        await process.aclose()


async def listening(store: LimitStore, count: int) -> bool:
    answer: Any = await store.connection.client.pubsub_numsub(store.pause_channel)
    return answer[0][1] == count


async def is_paused(process: Process) -> bool:
    return process.presence._is_paused("demo")


async def test_spend_counts_what_calls_really_cost(store: LimitStore, redis_url: str) -> None:
    process = Process(store, redis_url, spend_per_hour=1.0)
    for _ in range(3):
        await process.admission.settle(await granted(process.admission, Task("t")), Used(10_000, 6_667))
    assert await spent(store) == pytest.approx(0.9, abs=0.01)
    (await waits(process.admission, Task("too much"), 0.2)).cancel()
    await process.aclose()


async def test_each_model_of_a_profile_spends_by_its_own_price(store: LimitStore, redis_url: str) -> None:
    process = Process(store, redis_url, spend_per_hour=1.0)
    reserved = [
        await granted(process.admission, Task("t"), estimate=Estimate(4_000, model=model))
        for model in ("", "mini", "unpriced")
    ]
    assert [permit.spend for permit in reserved] == pytest.approx([0.019, 0.0019, 0])
    await process.admission.settle(reserved[1], Used(10_000, 10_000, model="mini"))
    await process.admission.settle(reserved[2], Used(10_000, 10_000, model="unpriced"))
    await process.admission.settle(reserved[0], Used(10_000, 10_000, 0.25, model=""))
    assert await spent(store) == pytest.approx(0.04 + 0.25, abs=0.001)
    await process.aclose()


async def spent(store: LimitStore) -> float:
    client: Any = store.connection.client
    return float(await client.hget(f"{store.prefix}bucket:p:demo:spend_per_hour", "sum"))


async def test_estimates_are_learned_from_real_usage(store: LimitStore, redis_url: str) -> None:
    process = Process(store, redis_url, tokens_per_min=1e9)
    first = await granted(process.admission, Task("t"))
    for _ in range(3):
        await process.admission.settle(await granted(process.admission, Task("t")), Used(2_000, 1_000))
    learned = await granted(process.admission, Task("t"))
    assert first.tokens == pytest.approx(400)
    assert learned.tokens == pytest.approx(3_000)
    await process.aclose()


async def test_a_permit_never_used_gives_all_of_it_back(store: LimitStore, redis_url: str) -> None:
    process = Process(store, redis_url, concurrency=1)
    await process.admission.give_back(await granted(process.admission, Task("t")))
    await granted(process.admission, Task("t"))
    await process.aclose()


async def test_on_another_broker_a_task_waits_in_place_and_gets_its_turn(store: LimitStore, redis_url: str) -> None:
    process = Process(LimitStore(store.connection, "dspex"), redis_url, concurrency=1)
    first = await process.admission.before_start(Task("first", claim="a foreign tag"), "demo", SHORT)
    assert isinstance(first, Permit)
    second = asyncio.create_task(process.admission.before_start(Task("second", claim="another"), "demo", SHORT))
    await eventually(lambda: parked(store), "it stands in its lane")
    await process.admission.settle(first, Used(1, 1))
    assert isinstance(await asyncio.wait_for(second, 3), Permit)
    await process.aclose()


async def test_a_call_that_cant_be_settled_is_settled_once_redis_is_back(store: LimitStore, redis_url: str) -> None:
    process = Process(store, redis_url, concurrency=1)
    first = await granted(process.admission, Task("first"))
    reachable, store.connection = store.connection, RedisConnection("redis://127.0.0.1:9/0", timeout_s=0.2)
    await process.admission.settle(first, Used(1, 1))
    store.connection = reachable
    assert (await granted(process.admission, Task("second"))).id
    await process.aclose()


async def test_calls_that_come_together_first_fail_alike_where_redis_stays_away(
    store: LimitStore, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_through_outages, "__kwdefaults__", {"deadline": None, "patience_s": 0.5})
    process = Process(store, "redis://127.0.0.1:9/0")
    calls = [granted(process.admission, Task(f"t{n}")) for n in range(50)]
    answers = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), PATIENCE_S)
    assert {type(answer) for answer in answers} == {StoreUnavailableError}
    await process.aclose()
