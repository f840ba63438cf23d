"""Guard: no way out of a task but a committed end, or its message's way back."""

from __future__ import annotations

import asyncio
import copy
from types import SimpleNamespace
from typing import Any

import pytest
from billiard.einfo import ExceptionInfo
from celery.app.trace import TraceInfo
from celery.exceptions import Ignore, Reject
from celery.states import FAILURE, IGNORED, REJECTED

from snakepit_bridge.exceptions import InputError, PredictionFailedError, StoreUnavailableError
from snakepit_bridge.protocol.messages import PREDICT, PREDICT_BATCH
from snakepit_bridge.redis.replication import ON_PRIMARY, Replication
from tests.harness.waiting import wait_until
from workers import task_guard as guard
from workers.rabbitmq_dead_letters import GivenUp
from workers.task_guard import Guard, Traced


class Task:
    """A task and its app, whose backend remembers the ends; it is away where ``away`` says so."""

    def __init__(
        self, name: str = PREDICT, *, runtime: Exception | None = None, outage: Exception | None = None
    ) -> None:
        self.name, self.app, self.backend = name, self, self
        self.ends: list[tuple[str, str, str]] = []
        self._runtime, self._away = runtime, outage
        self.deliveries: Any = None
        self.durability: Replication | None = None

    @property
    def runtime(self) -> object:
        if self._runtime:
            raise self._runtime
        return self

    async def acommit(
        self, task_id: str, error: Exception, state: str, *, reply_channel: str, durability: Replication
    ) -> None:
        if self._away:
            raise self._away
        self.ends.append((task_id, type(error).__name__, reply_channel))
        self.durability = durability


def traced(task: Task, tracer: Any, request: dict[str, Any] | None = None, args: Any = ()) -> Traced:
    return Guard(task, tracer)("task", args, {}, request or {"id": "task", "reply_channel": "c", "program": "qa"})


def raising(exc: BaseException) -> Any:
    def tracer(*_: Any) -> Traced:
        raise exc

    return tracer


def failed(exc: Exception, *, internal: bool = False) -> Any:
    def tracer(*_: Any) -> Traced:
        try:
            raise exc
        except type(exc):
            return ExceptionInfo(internal=internal), TraceInfo(FAILURE, exc), 0.0, None  # type: ignore[return-value]

    return tracer


@pytest.mark.parametrize("exc", [ValueError("a"), SystemExit(1), GeneratorExit(), asyncio.CancelledError()])
def test_what_the_tracer_lets_through_is_the_predictions_end(exc: BaseException) -> None:
    task = Task()
    _, info, *_ = traced(task, raising(exc))
    assert info is not None
    assert (info.state, type(info.retval)) == (FAILURE, PredictionFailedError)
    assert task.ends == [("task", "PredictionFailedError", "c")]


@pytest.mark.parametrize(
    ("asked_for", "durability"), [("fsynced(1, 2)", Replication(1, 2, fsync=True)), ("forever", ON_PRIMARY)]
)
def test_such_an_end_waits_for_what_its_message_asks_for(asked_for: str, durability: Replication) -> None:
    task = Task()
    traced(task, raising(ValueError("a")), {"id": "task", "durability": asked_for})
    assert task.durability == durability


def test_an_end_that_the_tracer_has_stored_is_left_alone() -> None:
    task = Task()
    traced(task, failed(InputError("qa", "question", "odd")))
    assert task.ends == []


@pytest.mark.parametrize("exc", [MemoryError(), ValueError("outside the body")])
def test_an_end_that_celery_takes_for_its_workers_is_stored_by_name(exc: Exception) -> None:
    task = Task()
    result, info, *_ = traced(task, failed(exc, internal=True))
    assert task.ends == [("task", "PredictionFailedError", "c")]
    assert info is not None
    assert isinstance(info.retval, PredictionFailedError)
    assert not isinstance(result.exception, MemoryError)


def test_what_fails_before_the_task_has_a_request_is_no_success() -> None:
    def tracer(*_: Any) -> Traced:
        result, _, _, _ = failed(ValueError("keywords that are none"), internal=True)()
        return result, None, None, None

    task = Task()
    _, info, *_ = traced(task, tracer)
    assert task.ends == [("task", "PredictionFailedError", "c")]
    assert info is not None


@pytest.mark.parametrize("named", [True, False])
def test_a_batch_that_fails_ends_each_of_its_inputs(named: bool) -> None:
    """Its sender may be a stock client, which names nobody in the headers."""
    task = Task(PREDICT_BATCH)
    headers = {"id": "batch", "task_ids": ["a", "b"]} if named else {"id": "batch"}
    traced(task, failed(ValueError("odd")), headers, [[["a", {}], ["b", {}]], "qa"])
    assert [task_id for task_id, *_ in task.ends] == ["a", "b"]


def test_what_is_in_other_hands_stays_there() -> None:
    task, ignored = Task(), (None, TraceInfo(IGNORED, Ignore()), 0.0, None)
    assert traced(task, lambda *_: ignored) is ignored
    _, info, *_ = traced(task, raising(Reject("later", requeue=True)))
    assert info is not None
    assert (info.state, info.retval.requeue) == (REJECTED, True)  # type: ignore[union-attr]
    assert task.ends == []


@pytest.mark.parametrize("outage", [StoreUnavailableError("redis://r", "away"), ValueError("odd")])
def test_an_end_that_cannot_be_stored_sends_the_message_back(outage: Exception) -> None:
    _, info, *_ = traced(Task(outage=outage), raising(ValueError("a")))
    assert info is not None
    assert (info.state, info.retval.requeue) == (REJECTED, True)  # type: ignore[union-attr]


def test_a_process_that_cannot_run_predictions_sends_them_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "_PAUSE_S", 0.01)
    task = Task(runtime=RuntimeError("no key"))
    _, info, *_ = traced(task, raising(AssertionError("it was run")))
    assert info is not None
    assert (info.state, info.retval.requeue) == (REJECTED, True)  # type: ignore[union-attr]
    assert task.ends == []


def test_what_the_pool_itself_stops_is_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "current_owner", lambda: SimpleNamespace(ended=True))
    with pytest.raises(asyncio.CancelledError):
        traced(Task(), raising(asyncio.CancelledError()))


class Counting:
    """Stands for the deliveries; a message has so many deaths behind it."""

    def __init__(self, deaths: int = 0, outage: StoreUnavailableError | None = None) -> None:
        self.deaths, self.away = deaths, outage
        self.seen: list[object] = []

    async def begin(self, task_id: str, *, first: bool) -> int:
        if self.away:
            raise self.away
        self.seen.append((task_id, first))
        return self.deaths

    async def end(self, task_id: str) -> None:
        self.seen.append(task_id)


def counted(task: Task, counting: Counting, tracer: Any, redelivered: bool = False) -> Traced:
    task.deliveries = counting
    return traced(task, tracer, {"id": "task", "delivery_info": {"redelivered": redelivered}})


@pytest.mark.parametrize("tracer", [failed(InputError("qa", "question", "odd")), raising(ValueError("a"))])
@pytest.mark.parametrize("redelivered", [False, True])
def test_each_run_is_counted_where_the_broker_does_not_count(tracer: Any, redelivered: bool) -> None:
    counting = Counting()
    counted(Task(), counting, tracer, redelivered)
    wait_until(lambda: counting.seen == [("task", not redelivered), "task"], "its end is noted, too")


def test_a_message_with_too_many_deaths_is_given_up_without_a_run() -> None:
    _, info, *_ = counted(Task(), Counting(5), lambda *_: pytest.fail("it was run"), True)
    assert info is not None
    assert (info.state, type(info.retval), info.retval.requeue, info.retval.deaths) == (REJECTED, GivenUp, False, 5)
    # It gets from a pool's process to the worker's own as it is.
    assert copy.copy(info.retval).deaths == 5


def test_a_message_whose_runs_cannot_be_counted_goes_back() -> None:
    counting = Counting(outage=StoreUnavailableError("redis://r", "gone"))
    _, info, *_ = counted(Task(), counting, lambda *_: pytest.fail("it was run"))
    assert info is not None
    assert (info.state, info.retval.requeue) == (REJECTED, True)
