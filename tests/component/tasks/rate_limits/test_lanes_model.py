"""Whatever happens in whatever order: each message is in one place, and what is counted is what there is."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tasks.rate_limits.rules import LimitValues, build_buckets
from tasks.rate_limits.store import Costs, Granted, LimitStore, NotHeld
from tests.component.tasks.rate_limits.conftest import Broker, Clock, Task

FREE = Costs(0.0, 0.0)
SESSIONS = ("a", "b")
OFTEN = ("submit", "claim", "release", "settle")
OPERATIONS = (*OFTEN * 3, "give back", "kill", "let go", "wait", "pause", "attend", "leave")

Steps = st.lists(
    st.tuples(st.sampled_from(OPERATIONS), st.sampled_from(SESSIONS), st.integers(0, 2)), min_size=30, max_size=80
)


class Model:
    """A fleet of one worker, and what should be where."""

    def __init__(self, store: LimitStore, broker: Broker, clock: Clock, concurrency: int) -> None:
        self.store, self.broker, self.clock = store, broker, clock
        self.rules = build_buckets("p", "demo", LimitValues(concurrency=concurrency))
        self.running: dict[str, str] = {}
        self.ended, self.submitted, self.in_place = set[str](), set[str](), set[str]()

    async def take(self, operation: str, session: str, pick: int) -> None:
        client: Any = self.store.connection.client
        match operation:
            case "submit":
                task = f"{session}-{len(self.submitted)}"
                self.submitted.add(task)
                await client.lpush("predictions", f"message of {task}")
            case "claim" if queued := await client.rpop("predictions"):
                await self._start(queued.decode().removeprefix("message of "))
            case "release":
                await self.store.release("demo", session, 1e9, pick + 1, 8, self.rules)
            case "settle" | "give back" if self.running:
                task = sorted(self.running)[pick % len(self.running)]
                await self.store.settle(self.running.pop(task), FREE, requests=int(operation == "settle"))
                self.ended.add(task)
            case "kill":
                # The worker's messages go back; its permits lapse.
                for task in self.running:
                    await client.rpush("predictions", f"message of {task}")
                self.running.clear()
                await self.clock.pass_by(11_000)
            case "let go":
                await self.store.unpark(f"{session}-{pick}")
            case "wait":
                await self.clock.pass_by(31_000 if pick == 2 else 500)
                await self.store.send_heartbeat("worker", list(self.running.values()))
            case "pause":
                await self.store.pause("demo", pick)
            case "attend":
                name = f"in-place-{session}-{pick}"
                await self.store.start(Task(name, session), uuid4().hex, "demo", FREE, self.rules, "ready")
                self.in_place.add(name)
            case "leave":
                await self.store.leave(f"in-place-{session}-{pick}")
            case _:
                return

    async def _start(self, task: str) -> None:
        claimed = await self.broker.claimed(task, session=task[0])
        permit = uuid4().hex
        answer = await self.store.start(claimed, permit, "demo", FREE, self.rules, "ready")
        assert not isinstance(answer, NotHeld)
        if isinstance(answer, Granted):
            self.running[task] = permit
            await self.store.connection.client.delete("dspex:delivery:held:worker")

    async def check(self) -> None:
        client: Any = self.store.connection.client
        prefix = self.store.prefix
        records = await client.hgetall(f"{prefix}messages")
        parked = {task.decode() for task, record in records.items() if not record.startswith(b"\n")}
        queued = [message.removeprefix("message of ") for message in await self.broker.queued()]
        everywhere = [*parked, *queued, *self.running, *self.ended]
        assert sorted(everywhere) == sorted(self.submitted), "each message is in one place"
        lanes = [await client.zcard(f"{prefix}lane:4:demo:{session}") for session in SESSIONS]
        assert sum(lanes) == len(records) == (await self.store.count_parked()).get("demo", 0)
        permits = await client.hkeys(f"{prefix}permits")
        under_way = {name.decode(): int(n) for name, n in (await client.hgetall(f"{prefix}under_way")).items()}
        assert under_way.get("p:demo:concurrency", 0) == len(permits) == await client.zcard(f"{prefix}leases")
        assert under_way.get("reserved:demo", 0) == sum(name.startswith(b"r:") for name in permits)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=Steps, concurrency=st.integers(1, 3))
async def test_each_message_is_in_one_place_and_what_is_counted_is_what_there_is(
    store: LimitStore, broker: Broker, clock: Clock, steps: list[tuple[str, str, int]], concurrency: int
) -> None:
    client: Any = store.connection.client
    await client.flushdb()
    await clock.set(1_800_000_000_000.0)
    model = Model(store, broker, clock, concurrency)
    for step in steps:
        await model.take(*step)
        await model.check()
    await client.flushdb()
