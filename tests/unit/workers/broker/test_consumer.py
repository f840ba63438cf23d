"""The consumer connects again where no file was left for it, where Celery's own ends the worker."""

from __future__ import annotations

import errno
import os
from typing import Any

import pytest
from celery.exceptions import WorkerShutdown, WorkerTerminate
from celery.worker.consumer import Consumer

from workers.broker import consumer
from workers.broker.consumer import FleetConsumer


class Blueprint:
    def __init__(self) -> None:
        self.restarted = 0

    def restart(self, parent: Any) -> None:
        self.restarted += 1


class Stage(FleetConsumer):
    """A consumer whose starts end as one says, and which notes what is done in between."""

    def __init__(self) -> None:
        self.blueprint = Blueprint()
        self.connection: Any = object()
        self.log: list[str] = []

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        self.log.append("closed")
        self.connection = None

    def on_close(self) -> None:
        self.log.append("flushed")

    def _cancel_connection_timer_entries(self) -> None:
        self.log.append("timers")


def no_file() -> OSError:
    return OSError(errno.EMFILE, os.strerror(errno.EMFILE))


def caused(exc: BaseException, cause: BaseException) -> BaseException:
    exc.__cause__ = cause
    return exc


@pytest.fixture
def ends(monkeypatch: pytest.MonkeyPatch) -> list[BaseException | None]:
    """How the starts of Celery's consumer end, one after the other; None is a stop."""
    ends: list[BaseException | None] = []

    def start(self: Any) -> None:
        end = ends.pop(0)
        if end is not None:
            raise end

    monkeypatch.setattr(Consumer, "start", start)
    monkeypatch.setattr(consumer, "_RECONNECT_DELAY_S", 0.0)
    return ends


def test_it_connects_again_as_often_as_no_file_is_left(ends: list[BaseException | None]) -> None:
    ends += [caused(WorkerTerminate(1), no_file()), caused(LookupError("of kombu"), no_file()), None]
    stage = Stage()
    stage.start()
    assert not ends
    assert stage.blueprint.restarted == 2
    assert stage.log == ["closed", "flushed", "timers", "flushed", "timers"]


@pytest.mark.parametrize("end", [WorkerTerminate(1), WorkerShutdown(0), LookupError("another")])
def test_whatever_else_ends_it_does(ends: list[BaseException | None], end: BaseException) -> None:
    ends.append(end)
    with pytest.raises(type(end)):
        Stage().start()
