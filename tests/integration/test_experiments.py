"""Experiments on real workers, by ``fleet.experiments``: the counts are exact, and everybody gets the winner."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Generator
from typing import Any

import dspy
import pytest

from snakepit_bridge.client.handle import Handle
from snakepit_bridge.exceptions import InputError
from snakepit_bridge.protocol.provenance import Provenance
from snakepit_bridge.releases.experiment_report import ExperimentReport
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until

Submit = Callable[[str], Handle]
BY_ANN: Any = {"author": "ann", "reason": "which tone do people like"}


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("experiments")) as playing:
        playing.start()
        playing.fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "warmth"})
        yield playing


def provenance(handle: Handle) -> Provenance:
    return handle.get(PATIENCE_S).provenance


def predictions(report: ExperimentReport) -> dict[str, int]:
    return {each.arm.name: each.counts.predictions for each in report.arms}


def test_a_sessions_arms_are_counted_exactly_and_everybody_gets_the_winner(play: Stage) -> None:
    session, fleet = fresh("session"), play.fleet
    context = fleet.session(session).blocking
    for warmth, label in ((0.1, "cold"), (0.5, "warm"), (0.9, "hot")):
        context.set_variables({"warmth": warmth})
        context.label(label)
    arms = [{"name": name, "weight": 0.5, "revision": name} for name in ("cold", "warm")]
    started = fleet.experiments.start(session, {"name": "tone", "to_share": 0.8, "arms": arms}, **BY_ANN)
    seen: Counter[str] = Counter()

    def ask(user: str) -> Provenance:
        found = provenance(fleet.submit("qa", {"question": fresh("q")}, session=session, key=user))
        seen[found.arm] += 1
        assert found.rollout == (started.id if found.arm else "")
        return found

    wait_until(lambda: ask(fresh("probe")).arm, "the workers to know of it")
    warmths = {"cold": 0.1, "warm": 0.5, "": 0.9}
    arms_of: dict[str, str] = {}
    for user in [f"user-{number}" for number in range(30)] * 2:
        found = ask(user)
        assert found.variables == {"warmth": warmths[found.arm]}
        assert arms_of.setdefault(user, found.arm) == found.arm, "a key keeps its arm"
    failing = next(user for user, arm in arms_of.items() if arm == "cold")
    with pytest.raises(InputError):
        fleet.submit("qa", {"no_such_field": "x"}, session=session, key=failing).get(PATIENCE_S)
    seen["cold"] += 1
    assert set(seen) == {"cold", "warm", ""}

    report = fleet.experiments.show(session, "tone")
    assert predictions(report) == {"cold": seen["cold"], "warm": seen["warm"]}
    cold, warm = report.arms
    assert (cold.counts.errors, warm.counts.errors) == ({"InputError": 1}, {})
    assert cold.figures.error_rate.value == 1 / seen["cold"]
    assert warm.figures.latency_p95.count == seen["warm"]
    assert warm.counts.cost_pico > 0

    assert fleet.experiments.decide(session, "tone", "warm", **BY_ANN).winner == "warm"
    wait_until(lambda: not ask("user-0").arm, "the workers to know of the end")
    ended = fleet.experiments.show(session, "tone")
    for user in (f"user-{number}" for number in range(10)):
        assert ask(user).variables == {"warmth": 0.5}
    assert predictions(fleet.experiments.show(session, "tone")) == predictions(ended), "nobody is counted any more"
    assert predictions(ended) == {"cold": seen["cold"], "warm": seen["warm"]}
    assert [event.kind for event in ended.events] == ["started", "decided"]


def test_a_labels_arms_are_counted_exactly_and_everybody_gets_the_winner(play: Stage) -> None:
    name, fleet = fresh("program"), play.fleet
    for instruction in ("Answer.", "Answer in a word.", "Answer in a rhyme."):
        fleet.register(name, dspy.Predict(dspy.make_signature("question -> answer", instruction)))
    fleet.label(name, "prod", 1)
    target = f"{name}@prod"
    arms = [{"name": f"v{version}", "weight": 0.5, "revision": str(version)} for version in (2, 3)]
    fleet.experiments.start(target, {"name": "style", "arms": arms}, **BY_ANN)
    seen: Counter[str] = Counter()
    for user in (f"user-{number}" for number in range(12)):
        found = provenance(fleet.submit(target, {"question": fresh("q")}, key=user))
        assert f"v{found.version}" == found.arm
        seen[found.arm] += 1
    assert set(seen) == {"v2", "v3"}
    assert predictions(fleet.experiments.show(target, "style")) == seen
    fleet.experiments.decide(target, "style", "v3", **BY_ANN)
    found = provenance(fleet.submit(target, {"question": fresh("q")}, key="user-1"))
    assert (found.version, found.arm) == (3, "")
