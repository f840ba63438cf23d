"""Endings: who waits for a prediction whose message was given up is told, and so is all that follows it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
from celery.states import FAILURE
from redis.exceptions import ConnectionError as RedisConnectionError

from snakepit_bridge.exceptions import BridgeError, PredictionFailedError, PredictionGivenUpError
from tests.harness.waiting import wait_until
from workers import task_ends as endings


class Backend:
    """An app and its backend, which remembers the ends; ``away`` says how often it is away first."""

    def __init__(self, outages: int = 0) -> None:
        self.backend = self
        self.stored: list[tuple[str, BridgeError, str, str]] = []
        self.failed: list[str] = []
        self.away = outages

    def commit_now(
        self, task_id: str, error: BridgeError, state: str, *, reply_channel: str, headers: Mapping[str, Any]
    ) -> None:
        if self.away:
            self.away -= 1
            raise RedisConnectionError("away")
        self.stored.append((task_id, error, state, reply_channel))

    def mark_as_failure(self, task_id: str, error: BridgeError, *, request: Any, state: str) -> None:
        self.failed.append(f"{task_id} {state} {len(request.chain)}")


def noted(message: dict[str, Any], count: int, outages: int = 0) -> Backend:
    app = Backend(outages)
    endings.end_predictions(app, message)
    wait_until(lambda: len(app.stored) >= count, f"{count} ends")
    return app


def test_a_lost_task_ends_under_its_own_error() -> None:
    message = {"task_id": "7", "reason": "lost", "error": "worker w fell silent", "reply_channel": "dspex:replies:c"}
    ((task_id, error, state, channel),) = noted(message, 1).stored
    assert (task_id, state, channel) == ("7", FAILURE, "dspex:replies:c")
    assert isinstance(error, PredictionGivenUpError)
    assert "given up (lost): worker w fell silent" in str(error)


@pytest.mark.parametrize("reason", ["lost", "unreadable", "rejected"])
def test_each_input_of_a_batch_ends_by_what_the_headers_say(reason: str) -> None:
    """The body may be unreadable."""
    message = {"task_id": "batch", "task_ids": ["a", "b", "c"], "reason": reason, "error": "it is broken"}
    app = noted(message, 3)
    assert [(task_id, error.task_id) for task_id, error, *_ in app.stored] == [(name, name) for name in "abc"]  # type: ignore[attr-defined]


def test_an_outage_of_the_result_backend_postpones_ends_and_loses_none() -> None:
    message = {"task_id": "batch", "task_ids": ["a", "b"], "reason": "lost", "error": "gone"}
    assert [task_id for task_id, *_ in noted(message, 2, outages=2).stored] == ["a", "b"]


def test_what_follows_in_a_chain_ends_as_well() -> None:
    message = {"task_id": "7", "reason": "lost", "error": "gone", "embed": {"chain": [{}, {}]}}
    app = noted(message, 1)
    wait_until(lambda: app.failed == ["7 FAILURE 2"], "the end of the chain")


@pytest.mark.parametrize("message", [{"task_id": None}, {}, {"task_ids": [1, None]}, {"task_ids": "abc"}])
def test_what_has_no_name_is_left_alone(message: dict[str, Any]) -> None:
    app = Backend()
    endings.end_predictions(app, {**message, "reason": "unreadable", "error": "no JSON"})
    noted({"task_id": "next", "reason": "lost", "error": "gone"}, 1)  # they are brought in their order
    assert app.stored == []


class Mute(Exception):
    """An exception whose own text fails."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: ValueError("why"), "ValueError: why"),
        (lambda: Mute("x"), "Mute: its text can't be rendered"),
        (lambda: SystemExit(3), "SystemExit: 3"),
        (lambda: ValueError("half \ud83d"), "half \\ud83d"),
    ],
)
def test_any_exception_has_a_named_error(make: Callable[[], BaseException], says: str) -> None:
    error = endings.to_bridge_error(make(), "qa")
    assert isinstance(error, PredictionFailedError)
    assert says in str(error)
