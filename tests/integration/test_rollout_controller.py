"""Rollouts on real workers that go on, or back, by themselves, also where the worker that leads is killed."""

from __future__ import annotations

import json
import signal
import threading
import time
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases.report import RolloutReport
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutState
from snakepit_bridge.testing import AskedQuestion, Raw
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, Stopwatch, wait_until

HARMFUL = 0.9
LEASE_S = 3.0


def answer(ask: AskedQuestion) -> Mapping[str, Any] | Raw:
    """Answer with the question, but with nothing that can be parsed where the temperature is harmful."""
    if ask.body.get("temperature") == HARMFUL:
        return Raw("no field at all")
    return {"answer": next(iter(ask.inputs.values()), "")}


@pytest.fixture
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("rollouts"), worker=False, answer=answer) as playing:
        playing.start()
        leads(playing)
        playing.fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "warmth"})
        yield playing


def leads(play: Stage) -> str:
    """Wait until a worker looks after the rollouts, and return the owner of its lease."""
    with Redis.from_url(play.url, decode_responses=True) as client:
        return str(wait_until(lambda: client.get(FleetKeys().rollout_lease), "a worker to look after rollouts"))


@contextmanager
def traffic(play: Stage, session: str, at_once: int = 8) -> Generator[None]:
    """Keep submitting predictions, whatever becomes of them, so many at a time in two threads, ten times a second."""
    stop = threading.Event()

    def submit() -> None:
        while not stop.wait(0.1):
            with suppress(BridgeError):
                handles = [play.fleet.submit("qa", {"question": fresh("q")}, session=session) for _ in range(at_once)]
                for handle in handles:
                    with suppress(BridgeError):
                        handle.get(PATIENCE_S)

    threads = [threading.Thread(target=submit) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def begin(play: Stage, warmth: float, stages: list[dict[str, Any]], **policy: Any) -> str:
    """Publish a candidate in a session of the test's own."""
    session = fresh("session")
    context = play.fleet.session(session).blocking
    text = json.dumps({"stages": stages, **policy})
    context.set_variables({"warmth": 0.1, POLICY_VARIABLE: text})
    context.set_variables({"warmth": warmth})
    return session


def shows(play: Stage, session: str, state: RolloutState) -> RolloutReport:
    """Wait until a rollout is in a state, and return the report on it."""

    def seen() -> RolloutReport | None:
        report = play.fleet.rollouts.show(session)
        return report if report.record.state is state else None

    return wait_until(seen, f"the rollout to be {state}", timeout_s=60, poll_s=0.1)


def tokens(play: Stage, session: str) -> set[str]:
    """Return the tokens that some predictions without a key run under now, and an empty one for those that fail."""
    found: set[str] = set()
    for handle in [play.fleet.submit("qa", {"question": fresh("q")}, session=session) for _ in range(20)]:
        try:
            found.add(handle.get(PATIENCE_S).provenance.token)
        except BridgeError:
            found.add("")
    return found


def kinds(events: tuple[RolloutEvent, ...]) -> list[tuple[str, int]]:
    return [(event.kind, event.record.stage) for event in events]


def test_a_candidate_that_fails_is_rolled_back_and_nobody_gets_it_any_more(play: Stage) -> None:
    session = begin(play, HARMFUL, [{"share": 0.5, "min_predictions": 1_000}])
    with traffic(play, session):
        report = shows(play, session, RolloutState.ROLLED_BACK)
        ended = report.events[-1]
        assert ended.reason.startswith("breached: error_rate")
        assert ended.detail["guards"][0]["verdict"] == "breached"
        # A worker hears of it within the lease of its watch.
        wait_until(lambda: tokens(play, session) == {report.record.baseline}, "the baseline for everybody")
    assert kinds(report.events) == [("started", 0), ("stage", 1), ("rolled_back", 1)]
    assert report.candidate.predictions < 200
    assert not report.baseline.errors


def test_a_candidate_that_a_worker_refuses_is_rolled_back_before_a_prediction_is_spent(play: Stage) -> None:
    session = fresh("session")
    context = play.fleet.session(session).blocking
    context.set_variables({"warmth": 0.1, POLICY_VARIABLE: '{"stages": [{"share": 0.5}]}'})
    play.fleet.submit("qa", {"question": "?"}, session=session).get(PATIENCE_S)
    context.set_variables({"warmth": 77.0})
    report = shows(play, session, RolloutState.ROLLED_BACK)
    assert report.events[-1].reason.startswith("the candidate is refused: ")
    assert "77" in report.events[-1].reason
    assert report.candidate.predictions == 0


def test_a_killed_controller_is_replaced_and_no_stage_is_skipped_or_repeated(play: Stage) -> None:
    play.start()
    stages = [{"share": share, "min_s": 2, "min_predictions": 5} for share in (0.3, 0.5, 0.7)]
    session = begin(play, 0.3, stages)
    first = leads(play)
    # Five on each arm are all that a stage needs.
    with traffic(play, session, at_once=2):
        wait_until(lambda: started(play, session) == 1, "the first stage", timeout_s=30)
        play.worker.kill(signal.SIGKILL)
        watch = Stopwatch()
        with Redis.from_url(play.url, decode_responses=True) as client:
            wait_until(lambda: client.get(FleetKeys().rollout_lease) not in (None, first), "another worker to lead")
        assert watch.elapsed_s < LEASE_S + 3
        report = shows(play, session, RolloutState.PROMOTED)
    assert kinds(report.events) == [("started", 0), ("stage", 1), ("stage", 2), ("stage", 3), ("promoted", 3)]
    shares = [event.record.share for event in report.events if event.kind == "stage"]
    assert shares == [300_000, 500_000, 700_000]
    for earlier, later in zip(report.events[1:], report.events[2:], strict=False):
        assert later.at - earlier.record.since_us / 1e6 >= 2, "each stage lasted as long as the policy says"
    assert time.time() > report.events[-1].at


def started(play: Stage, session: str) -> int:
    with suppress(BridgeError):
        return play.fleet.rollouts.show(session).record.stage
    return 0
