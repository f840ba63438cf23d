"""A batch on a worker: bound once, bounded, and each input's end its own, whatever goes wrong with the others."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any, cast

import dspy
import pytest

from config.settings import FleetSettings
from snakepit_bridge.exceptions import (
    BridgeError,
    InputError,
    LMAnswerError,
    PredictionFailedError,
    ProgramNotFoundError,
    StoreUnavailableError,
)
from snakepit_bridge.programs.build import serialize_module
from snakepit_bridge.programs.rollouts import ProgramRollouts
from snakepit_bridge.protocol.messages import PredictionRequest
from snakepit_bridge.redis.outages import retry_through_outages
from snakepit_bridge.redis.replication import ON_PRIMARY, Replication
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.records import RolloutState, assign
from snakepit_bridge.testing import RecordingLM
from tasks import batch as module
from tasks.batch import Batch, Input, ResultCommitter
from tasks.requests import Delivery
from tasks.runtime import Runtime
from tests.harness.waiting import PATIENCE_S, eventually
from workers.runtime import build_runtime

DELIVERY = Delivery("batch", "worker@host", 1, 0.0, claim="w.1", reply_channel="dspex:replies:me")


class Stored:
    """Stands for the result backend; what is stored of some task may fail."""

    def __init__(self) -> None:
        self.ends: dict[str, tuple[Any, str]] = {}
        self.replies: set[str | None] = set()
        self.refuses: set[str] = set()

    def get_key_for_task(self, task_id: str) -> bytes:
        return f"celery-task-meta-{task_id}".encode()

    async def acommit(
        self,
        task_id: str,
        result: Any,
        state: str,
        *,
        reply_channel: str | None = None,
        durability: Replication = ON_PRIMARY,
    ) -> bytes | None:
        await asyncio.sleep(0)
        if task_id in self.refuses:
            raise StoreUnavailableError("redis://away", "no answer")
        self.ends[task_id] = (result, state)
        self.replies.add(reply_channel)
        return None


class Again:
    """Stands for what sends an input once more; it remembers which."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, float, int, int, float]] = []

    async def send_all(
        self,
        inputs: Sequence[Input],
        *,
        countdown: float = 0.0,
        retries: int = 0,
        tries: int = 0,
        failing_s: float = 0.0,
        deadline: float | None = None,
    ) -> None:
        self.sent += [(item.task_id, countdown, retries, tries, failing_s) for item in inputs]


@pytest.fixture
async def runtime(worker_settings: FleetSettings) -> AsyncIterator[Runtime]:
    runtime = build_runtime(worker_settings)
    await runtime.registry.register("qa", serialize_module(dspy.Predict("question -> answer"), program="qa"))
    yield runtime
    await runtime.aclose()


def inputs(count: int) -> list[Input]:
    return [Input(f"task-{number}", {"question": f"q{number}."}) for number in range(count)]


def batch(runtime: Runtime, stored: Stored, again: Again | None = None, program: str = "qa") -> Batch:
    return Batch(
        runtime,
        ResultCommitter(stored, DELIVERY.reply_channel),
        PredictionRequest(program, {}),
        DELIVERY,
        again or Again(),
    )


async def test_each_input_ends_under_its_own_id_and_is_told_to_its_client(runtime: Runtime) -> None:
    stored = Stored()
    await batch(runtime, stored).run(inputs(20))
    assert {task_id: end["outputs"]["answer"] for task_id, (end, _) in stored.ends.items()} == {
        f"task-{number}": f"answer of q{number}." for number in range(20)
    }
    assert {state for _, state in stored.ends.values()} == {"SUCCESS"}
    assert {end["provenance"]["task_id"] for end, _ in stored.ends.values()} == set(stored.ends)
    assert stored.replies == {DELIVERY.reply_channel}


async def test_an_input_whose_arm_executes_code_goes_on_as_a_message_of_its_own(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    rollouts = ProgramRollouts(runtime.registry)
    code = serialize_module(dspy.Predict("question -> answer"), program="qa", executes_code=True)
    await runtime.registry.register("qa", code)
    await runtime.registry.label("qa", "prod", 1)
    before = await rollouts.start("qa", "prod", 2, "{}")
    begun = before.change(RolloutState.RUNNING, stage=1, share=500_000)
    await rollouts.step("qa", "prod", before, RolloutEvent("stage", begun))
    stored, again = Stored(), Again()
    shared = replace(runtime, shares_process=True, message_leases=cast("Any", object()))
    await batch(shared, stored, again, "qa@prod").run(inputs(20))
    candidates = {item.task_id for item in inputs(20) if assign(begun, item.task_id, 1.0, "").arm == "candidate"}
    assert 0 < len(candidates) < 20
    assert {task_id for task_id, *_ in again.sent} == candidates
    assert stored.ends.keys() == {item.task_id for item in inputs(20)} - candidates


async def test_the_program_is_bound_once(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    prepared, prepare = list[PredictionRequest](), module.prepare

    async def counted(runtime: Runtime, request: PredictionRequest, delivery: Delivery, **options: Any) -> Any:
        prepared.append(request)
        return await prepare(runtime, request, delivery, **options)

    monkeypatch.setattr(module, "prepare", counted)
    await batch(runtime, Stored()).run(inputs(30))
    assert len(prepared) == 1


async def test_inputs_of_all_batches_of_a_process_share_its_room(runtime: Runtime, lm: RecordingLM) -> None:
    lm.delay(0.05)
    small = replace(runtime, batch_slots=asyncio.Semaphore(3))
    await asyncio.gather(*(batch(small, Stored()).run(inputs(6)) for _ in range(2)))
    starts = sorted((request.received_at, 1) for request in lm.requests)
    ends = sorted((request.answered_at or 0.0, -1) for request in lm.requests)
    running = most = 0
    for _, change in sorted([*starts, *ends]):
        running += change
        most = max(most, running)
    assert most == 3


async def test_an_end_that_is_an_error_is_its_inputs_alone(runtime: Runtime, lm: RecordingLM) -> None:
    stored = Stored()
    lm.garble(None, containing="q2.")
    given = [*inputs(4), Input("none", {"qestion": "?"}), Input("odd", "no object")]
    await batch(runtime, stored).run(given)
    kinds = {task_id: type(end) for task_id, (end, state) in stored.ends.items() if state == "FAILURE"}
    assert kinds == {"task-2": LMAnswerError, "none": InputError, "odd": InputError}


async def test_whatever_a_program_raises_has_a_name(runtime: Runtime, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: Any) -> Any:
        raise ZeroDivisionError("of its own")

    monkeypatch.setattr(module, "run", fails)
    stored = Stored()
    await batch(runtime, stored).run(inputs(2))
    for end, state in stored.ends.values():
        assert (type(end), end.error, state) == (PredictionFailedError, "ZeroDivisionError", "FAILURE")


async def test_what_hinders_all_is_the_end_of_each(runtime: Runtime) -> None:
    stored = Stored()
    await batch(runtime, stored, program="nowhere").run(inputs(3))
    assert [type(end) for end, _ in stored.ends.values()] == [ProgramNotFoundError] * 3


async def test_an_lm_that_wants_a_long_pause_sends_its_input_to_another_try(runtime: Runtime, lm: RecordingLM) -> None:
    stored, again = Stored(), Again()
    lm.fail(1, status=503, retry_after_s=7, containing="q1.")
    await batch(runtime, stored, again).run(inputs(3))
    assert set(stored.ends) == {"task-0", "task-2"}
    [(task_id, countdown, retries, tries, failing_s)] = again.sent
    assert (task_id, retries, tries) == ("task-1", 1, 1)
    assert 7 <= countdown <= failing_s < countdown + 1


async def test_an_end_that_cannot_be_stored_yet_is_stored_once_it_can(runtime: Runtime) -> None:
    """An outage costs an input time, and no second run."""
    stored = Stored()
    stored.refuses = {"task-1"}
    running = asyncio.create_task(batch(runtime, stored).run(inputs(5)))
    others = {f"task-{number}" for number in (0, 2, 3, 4)}
    await eventually(lambda: _equal(set(stored.ends), others), "the ends of the others")
    assert not running.done()
    stored.refuses = set()
    await asyncio.wait_for(running, PATIENCE_S)
    assert set(stored.ends) == {*others, "task-1"}


async def _equal(found: object, wanted: object) -> bool:
    return found == wanted


async def test_an_end_that_can_never_be_stored_fails_the_batch_once_the_others_have_ended(
    runtime: Runtime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retry_through_outages, "__kwdefaults__", {"deadline": None, "patience_s": 0.2})
    stored = Stored()
    stored.refuses = {"task-1"}
    with pytest.raises(StoreUnavailableError):
        await batch(runtime, stored).run(inputs(5))
    assert set(stored.ends) == {f"task-{number}" for number in (0, 2, 3, 4)}


async def test_a_batch_that_is_left_leaves_nothing_running(runtime: Runtime, lm: RecordingLM) -> None:
    stored, before = Stored(), asyncio.all_tasks()
    lm.hang(None)
    running = asyncio.create_task(batch(runtime, stored).run(inputs(5)))
    await asyncio.to_thread(lm.wait_for_requests, 5)
    of_inputs = [task for task in asyncio.all_tasks() - before if "task-" in repr(task.get_coro())]
    assert len(of_inputs) == 5
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert all(task.done() for task in of_inputs)
    assert stored.ends == {}


async def test_what_has_ended_is_not_unfinished(runtime: Runtime) -> None:
    stored = Stored()
    await runtime.results.client.set("celery-task-meta-task-1", '{"status": "REVOKED"}', ex=60)
    await runtime.results.client.set("celery-task-meta-task-2", '{"status": "RETRY"}', ex=60)
    left = await module.find_unfinished(runtime, stored, inputs(4))
    assert [item.task_id for item in left] == ["task-0", "task-2", "task-3"]
    assert await module.find_unfinished(runtime, stored, []) == []


async def test_all_inputs_end_with_one_error(runtime: Runtime) -> None:
    stored = Stored()
    await ResultCommitter(stored, "").commit_error_for_all(inputs(3), BridgeError("all of it is wrong"))
    assert {str(end) for end, _ in stored.ends.values()} == {"all of it is wrong"}
