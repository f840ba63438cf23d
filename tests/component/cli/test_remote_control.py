"""Workers that are busy are waited for, since they report to Redis that they run; others aren't."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from snakepit_bridge.cli import status
from snakepit_bridge.cli.doctor import check_answers
from snakepit_bridge.cli.fleet_state import find_workers
from snakepit_bridge.cli.remote_control import await_answers
from snakepit_bridge.client import Fleet
from snakepit_bridge.delivery.activity import ActivityStore, EndedPredictions, ProcessReport
from snakepit_bridge.process.home_loop import run_blocking

CALM, BUSY = "calm@h", "slow@h"


class Control:
    """Celery's remote control: who answers each time that it asks, and whom it asked."""

    def __init__(self, *rounds: Sequence[str]) -> None:
        self._rounds = list(rounds)
        self.asked: list[list[str] | None] = []

    def broadcast(self, *_: Any, destination: list[str] | None, **__: Any) -> list[dict[str, Any]]:
        self.asked.append(destination)
        return [{name: {}} for name in (self._rounds.pop(0) if self._rounds else ())]


@pytest.fixture
def fleet(redis_url: str) -> Fleet:
    """A fleet two of whose workers report that they run."""
    found = Fleet(redis_url)
    store = ActivityStore(found.connection)
    for name in (CALM, BUSY):
        run_blocking(store.report(ProcessReport(name, 1, "asyncio", 10), EndedPredictions(at=time.time())))
    return found


def answer_by(fleet: Fleet, monkeypatch: pytest.MonkeyPatch, *rounds: Sequence[str]) -> Control:
    control = Control(*rounds)
    monkeypatch.setattr(fleet.app, "control", control)
    return control


def test_a_busy_worker_is_asked_again_until_it_answers(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    control, announced = answer_by(fleet, monkeypatch, [CALM], [], [BUSY]), list[Sequence[str]]()
    answers = await_answers(fleet, "stats", 60, first_s=1, on_silence=announced.append)
    assert [name for name, _ in answers.found] == [CALM, BUSY]
    assert answers.silent == []
    assert control.asked == [None, [BUSY], [BUSY]]
    assert announced == [[BUSY]]


def test_what_stays_silent_is_named_with_the_wait(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    answer_by(fleet, monkeypatch, [CALM])
    checks = {check.what: check for check in check_answers(find_workers(fleet, 0.05))}
    assert checks["workers"].found == f"1 answers: {CALM}"
    assert checks["silent workers"].found == f"{BUSY} reported lately, and gave no answer within 0 s"


def test_workers_that_share_a_name_are_told_of_in_our_words(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch, recwarn: pytest.WarningsRecorder
) -> None:
    answer_by(fleet, monkeypatch, [CALM, CALM, BUSY], [CALM, CALM, BUSY])
    found = find_workers(fleet)
    assert found.shared == [CALM]
    assert {check.what for check in check_answers(found)} == {"workers", "worker names"}
    shown = status.collect_status(fleet)
    assert [worker["name"] for worker in shown["workers"]] == [CALM, CALM, BUSY]
    assert not recwarn
