"""Endings: who waits for a task whose message was given up is told."""

from __future__ import annotations

from typing import Any

import pytest
from celery.states import FAILURE

from snakepit_bridge.exceptions import PredictionGivenUp
from workers import endings


class Backend:
    def __init__(self) -> None:
        self.backend = self
        self.stored: list[tuple[Any, ...]] = []

    def store_result(self, *result: Any, request: Any) -> None:
        self.stored.append((*result, request.headers))


def test_a_lost_task_ends_under_its_own_error() -> None:
    app = Backend()
    told = {"task_id": "7", "reason": "lost", "error": "worker w fell silent", "reply_channel": "dspex:replies:c"}
    endings.note(app, told)
    ((task_id, error, state, headers),) = app.stored
    assert (task_id, state, headers) == ("7", FAILURE, {"reply_channel": "dspex:replies:c"})
    assert isinstance(error, PredictionGivenUp)
    assert "given up (lost): worker w fell silent" in str(error)


@pytest.mark.parametrize(
    "told",
    [
        {"task_id": "7", "reason": "rejected", "error": "no such task"},
        {"task_id": None, "reason": "unreadable", "error": "no JSON"},
        {"reason": "unreadable", "error": "no JSON"},
    ],
)
def test_what_celery_has_ended_and_what_has_no_name_is_left_alone(told: dict[str, Any]) -> None:
    app = Backend()
    endings.note(app, told)
    assert app.stored == []
