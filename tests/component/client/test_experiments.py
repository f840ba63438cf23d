"""``fleet.experiments`` on a real server: on sessions and on labels, from the start to a decision."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import (
    ExperimentError,
    ExperimentNotFoundError,
    ProgramNotFoundError,
    RolloutOverlapError,
    SessionNotFoundError,
    SessionOwnedElsewhereError,
)
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.experiments import ExperimentState
from snakepit_bridge.variables import Variable

BY_ANN: Any = {"author": "ann", "reason": "because"}
pytestmark = pytest.mark.keeps_keys(r"dspex:\{s:.*\}:(rollouts|experiments)")


@pytest.fixture
def fleet(redis_url: str) -> Generator[Fleet]:
    fleet = Fleet(redis_url)
    yield fleet
    run_blocking(fleet.store.aclose())
    run_blocking(fleet.connection.aclose())


@pytest.fixture
def tokens(fleet: Fleet) -> list[Token]:
    """Three revisions of the session ``demo``."""
    session = fleet.session("demo").blocking
    return [session.set_variables({"a": value}) for value in (1.0, 2.0, 3.0)]


def plan(*revisions: Any, **changed: Any) -> dict[str, Any]:
    weight = 1 / len(revisions)
    arms = [
        {"name": f"arm{number}", "weight": weight, "revision": str(each)} for number, each in enumerate(revisions, 1)
    ]
    return {"name": "tone", "arms": arms} | changed


def test_an_experiment_on_a_session_runs_until_it_is_decided(fleet: Fleet, tokens: list[Token]) -> None:
    started = fleet.experiments.start("demo", plan(*tokens[:2]), **BY_ANN)
    assert fleet.experiments.list("demo") == (started,)
    assert fleet.session("demo").blocking.get_variable("a") == 3.0

    ended = fleet.experiments.decide("demo", "tone", "arm2", **BY_ANN)
    assert (ended.id, ended.state, ended.winner) == (started.id, ExperimentState.DECIDED, "arm2")
    assert fleet.session("demo").blocking.get_variable("a") == 2.0
    assert fleet.experiments.list("demo") == ()
    newest = fleet.session("demo").blocking.history(1)[0]
    assert (newest.author, newest.reason) == ("ann", "because")
    events = fleet.experiments.events("demo")
    assert [(event.kind, event.author) for event in events] == [("started", "ann"), ("decided", "ann")]
    assert fleet.experiments.events("demo", after=events[0].position) == events[1:]


def test_a_stop_changes_no_variable(fleet: Fleet, tokens: list[Token]) -> None:
    fleet.experiments.start("demo", plan(*tokens[:2]))
    before = run_blocking(fleet.store.head("demo")).token

    assert fleet.experiments.stop("demo", "tone", **BY_ANN).state is ExperimentState.STOPPED
    assert run_blocking(fleet.store.head("demo")).token == before
    with pytest.raises(ExperimentNotFoundError):
        fleet.experiments.stop("demo", "tone", **BY_ANN)


def test_an_arm_may_be_named_by_a_label(fleet: Fleet, tokens: list[Token]) -> None:
    fleet.session("demo").blocking.label("stable", tokens[0])
    started = fleet.experiments.start("demo", plan("stable", "latest"))
    fleet.session("demo").blocking.label("stable", tokens[1])

    assert [arm.revision for arm in started.arms] == [str(tokens[0]), str(tokens[2])]
    assert fleet.experiments.list("demo") == (started,)


@pytest.mark.parametrize("revision", ["nothing", "9.9", "7", "a b", "99999999999999999.1"])
def test_a_revision_that_does_not_exist_is_refused(fleet: Fleet, tokens: list[Token], revision: str) -> None:
    with pytest.raises(ExperimentError, match=r"arms\[1\].revision"):
        fleet.experiments.start("demo", plan(tokens[0], revision))
    assert fleet.experiments.list("demo") == ()
    assert fleet.experiments.events("demo") == []


def test_a_decision_for_no_arm_changes_nothing(fleet: Fleet, tokens: list[Token]) -> None:
    started = fleet.experiments.start("demo", plan(*tokens[:2]))

    with pytest.raises(ExperimentError, match="none of its arms"):
        fleet.experiments.decide("demo", "tone", "arm9", **BY_ANN)
    with pytest.raises(ExperimentNotFoundError, match="Did you mean 'tone'"):
        fleet.experiments.decide("demo", "tune", "arm1", **BY_ANN)
    assert fleet.experiments.list("demo") == (started,)
    assert run_blocking(fleet.store.head("demo")).token == tokens[2]


def test_a_decision_that_was_interrupted_can_be_repeated(
    fleet: Fleet, tokens: list[Token], monkeypatch: pytest.MonkeyPatch
) -> None:
    started = fleet.experiments.start("demo", plan(*tokens[:2]))

    async def interrupt(*_: Any) -> None:
        raise ConnectionResetError

    with monkeypatch.context() as patched:
        patched.setattr(fleet.store, "change_experiments", interrupt)
        with pytest.raises(ConnectionResetError):
            fleet.experiments.decide("demo", "tone", "arm1", **BY_ANN)
    assert fleet.experiments.list("demo") == (started,)
    moved = run_blocking(fleet.store.head("demo")).token
    assert fleet.experiments.decide("demo", "tone", "arm1", **BY_ANN).winner == "arm1"
    assert run_blocking(fleet.store.head("demo")).token == moved
    assert fleet.session("demo").blocking.get_variable("a") == 1.0


def test_a_session_without_revisions_takes_no_experiment(fleet: Fleet) -> None:
    with pytest.raises(SessionNotFoundError):
        fleet.experiments.start("nowhere", plan("1.1", "1.2"))


def test_what_elixir_owns_is_decided_there(fleet: Fleet) -> None:
    tokens = [
        run_blocking(fleet.store.publish("theirs", {"a": Variable.declare("a", value)}, publisher="elixir@host"))
        for value in (1.0, 2.0)
    ]
    started = fleet.experiments.start("theirs", plan(*tokens))

    with pytest.raises(SessionOwnedElsewhereError):
        fleet.experiments.decide("theirs", "tone", "arm1", **BY_ANN)
    assert fleet.experiments.list("theirs") == (started,)
    assert fleet.experiments.stop("theirs", "tone", **BY_ANN).id == started.id


def test_an_experiment_on_a_label_runs_until_it_is_decided(fleet: Fleet) -> None:
    for output in "ab":
        spec = ProgramSpec.parse({"module": "Predict", "signature": f"question -> {output}"}, program="qa")
        run_blocking(fleet.registry.register("qa", spec))
    fleet.label("qa", "prod", 1)
    started = fleet.experiments.start("qa@prod", plan(1, 2), **BY_ANN)

    assert fleet.experiments.list("program:qa@prod") == (started,)
    with pytest.raises(RolloutOverlapError, match="experiment 'tone'"):
        fleet.rollouts.start("qa@prod", 2)
    assert fleet.experiments.decide("qa@prod", "tone", "arm2", **BY_ANN).winner == "arm2"
    assert run_blocking(fleet.registry.get("qa@prod")).version == 2
    assert [event.kind for event in fleet.experiments.events("qa@prod")] == ["started", "decided"]
    with pytest.raises(ProgramNotFoundError):
        fleet.experiments.start("qa@canary", plan(1, 2))
