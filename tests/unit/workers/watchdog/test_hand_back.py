"""What hasn't begun goes back while the loop stands still, and isn't run when it turns again."""

from __future__ import annotations

from typing import Any

import pytest
from celery.worker import state
from celery.worker.request import Request

from workers.pool.asyncio_pool import AsyncioPool
from workers.pool.pool_task import PoolRequest, PoolTask
from workers.watchdog.pulse import PULSE


class Reserved(Request):
    """A request that Celery has reserved; remembers what becomes of it."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    @property
    def id(self) -> str:
        return "task"

    def reject(self, requeue: bool = False) -> None:
        self.told.append(("rejected", requeue))

    def on_accepted(self, pid: int, time_accepted: float) -> None:
        self.told.append("accepted")

    def __hash__(self) -> int:
        return id(self)


def job_of(request: Reserved, ran: list[str], number: int = 1) -> PoolTask:
    order = PoolRequest(lambda: ran.append("ran"), on_accepted=request.on_accepted)
    return PoolTask(number, order, False, lambda job: None)


def test_a_job_that_has_not_begun_is_given_back_and_never_runs() -> None:
    request, ran = Reserved(), list[str]()
    state.task_reserved(request)
    job = job_of(request, ran)
    assert job.requeue()
    assert not job.requeue(), "once is enough"
    job.execute()
    assert (request.told, ran) == ([("rejected", True)], [])
    assert request not in state.reserved_requests


def test_a_job_that_has_begun_is_kept() -> None:
    request, ran = Reserved(), list[str]()
    job = job_of(request, ran)
    job.execute()
    assert not job.requeue()
    assert (request.told, ran) == (["accepted"], ["ran"])


def test_only_a_loop_that_stands_still_for_a_lease_and_is_seen_so_twice_gives_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool, ran = AsyncioPool(1), list[str]()
    requests = [Reserved() for _ in range(3)]
    begun, running, waiting = (job_of(each, ran, number) for number, each in enumerate(requests))
    begun.execute()
    pool._running = {0: begun, 1: running}
    pool._waiting.append(waiting)

    monkeypatch.setattr(type(PULSE), "stalled_s", 4.9)
    for _ in range(3):
        pool._check_home_loop()
    monkeypatch.setattr(type(PULSE), "stalled_s", 5.1)
    pool._check_home_loop()
    assert [each.told for each in requests] == [["accepted"], [], []]
    pool._check_home_loop()
    assert [each.told for each in requests] == [["accepted"], [("rejected", True)], [("rejected", True)]]
