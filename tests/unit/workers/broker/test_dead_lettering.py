"""Whoever listens is told of what is given up, and can't harm whoever gives it up."""

from __future__ import annotations

from typing import Any

import pytest

from workers.broker import dead_lettering as given_up
from workers.broker import settlement


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(given_up, "_LISTENERS", [])


def test_what_is_given_up_is_told_and_nothing_else() -> None:
    events: list[Any] = []
    given_up.add_listener(events.append)
    given_up.notify_listeners(
        [settlement.ack("w.1"), settlement.dead_letter("w.2", "q", "lost", "it died", {"task_id": "7"})]
    )
    assert [(event["reason"], event["task_id"]) for event in events] == [("lost", "7")]


def test_a_listener_that_fails_keeps_nobody_from_being_told(caplog: pytest.LogCaptureFixture) -> None:
    events: list[Any] = []

    def fail(_: Any) -> None:
        raise ConnectionError("the result backend is away")

    given_up.add_listener(fail)
    given_up.add_listener(events.append)
    given_up.notify_listeners([settlement.dead_letter("w.2", "q", "lost", "it died", {"task_id": "7"})])
    assert len(events) == 1
    assert "failed for task 7" in caplog.text
