"""The request: the transport learns what a task's process died of, and of nothing else."""

from __future__ import annotations

import copy
from types import SimpleNamespace
from typing import Any

import pytest
from celery.app.task import Task
from celery.exceptions import WorkerLostError
from celery.worker.request import Request as CeleryRequest

from tasks.newer_messages import NOTED_S, LeftToNewerWorkerError, NewerReleaseNotice
from workers.app import app
from workers.broker import request as request_module
from workers.broker.request import FleetRequest, FleetTask


@pytest.fixture
def request_(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(CeleryRequest, "on_failure", lambda *_, **__: "celery's")
    created = FleetRequest.__new__(FleetRequest)
    created._message = SimpleNamespace(channel=SimpleNamespace(lost={}), delivery_tag="w.1")
    return created


def failed(request: Any, error: BaseException) -> dict[str, str]:
    assert request.on_failure(SimpleNamespace(exception=error)) == "celery's"
    return request.message.channel.lost


def test_a_dead_process_is_told_of(request_: Any) -> None:
    lost = failed(request_, WorkerLostError("Worker exited prematurely: signal 9 (SIGKILL)."))
    assert lost == {"w.1": "the process that ran it died: Worker exited prematurely: signal 9 (SIGKILL)."}


@pytest.mark.parametrize("error", [ValueError("no"), MemoryError(), KeyError("id")])
def test_an_error_of_the_tasks_own_is_not(error: BaseException, request_: Any) -> None:
    assert failed(request_, error) == {}


def test_what_a_child_leaves_to_a_newer_worker_is_known_to_the_main_process(
    request_: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now, notice = [0.0], NewerReleaseNotice(clock=lambda: now[0])
    monkeypatch.setattr(request_module, "NEWER_RELEASE", notice)
    sent = LeftToNewerWorkerError("a message has version 2", requeue=True)
    read: Any = copy.copy(sent)  # by its parts, as it comes from a child
    assert failed(request_, read) == {}
    assert notice.problem == "a message has version 2"
    now[0] = NOTED_S
    assert notice.problem == ""


def test_another_transport_is_left_alone(request_: Any) -> None:
    request_._message.channel = SimpleNamespace()
    assert request_.on_failure(SimpleNamespace(exception=WorkerLostError("died"))) == "celery's"


def test_every_task_of_the_fleet_has_it() -> None:
    assert issubclass(app.Task, FleetTask)
    assert app.Task.Request == "workers.broker.request:FleetRequest"
    assert issubclass(FleetTask, Task)
