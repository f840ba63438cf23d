"""``fleet.rollouts`` on a real server: what starts a rollout, what it shows, and who may steer it how."""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import Any

import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import (
    ProgramNotFoundError,
    RolloutCandidateError,
    RolloutNotFoundError,
    RolloutOverlapError,
    RolloutPolicyError,
    RolloutStateError,
    SessionNotFoundError,
    ValidationError,
)
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases.controller import RolloutController
from snakepit_bridge.releases.counts import MINUTE_S, StageCountsReader
from snakepit_bridge.releases.index import RolloutIndex
from snakepit_bridge.releases.look_history import LookHistory
from snakepit_bridge.releases.target_opener import TargetOpener
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.policy import DEFAULT_STAGES, parse_policy
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutState
from snakepit_bridge.snapshots.acknowledgements import Acks

POLICY = {"stages": [{"share": 0.1, "min_s": 0, "min_predictions": 10}, {"share": 0.5}], "guards": [
    {"metric": "error_rate", "max_increase": 0.01}, {"metric": "score", "name": "helpful", "min": 0.5}]}  # fmt: skip
BY_ANN: Any = {"author": "ann", "reason": "because"}
pytestmark = pytest.mark.keeps_keys(r"dspex:\{s:.*\}:rollouts")


@pytest.fixture
def fleet(redis_url: str) -> Generator[Fleet]:
    fleet = Fleet(redis_url)
    fleet.session("demo").blocking.set_variables({"a": 1.0})
    yield fleet
    run_blocking(fleet.store.aclose())
    run_blocking(fleet.connection.aclose())


def look(fleet: Fleet) -> None:
    """Have the rollouts looked at, as a worker does all the time."""
    keys = FleetKeys(fleet.namespace)
    opener = TargetOpener(fleet.store, Acks(fleet.connection), lambda: fleet.registry)
    index, counts = RolloutIndex(fleet.connection, keys), StageCountsReader(fleet.connection, keys)
    history = LookHistory(fleet.connection, keys)
    run_blocking(RolloutController(index, opener, counts, history=history).look())


def count(fleet: Fleet, arm: str, **fields: int) -> None:
    """Count what a commit counts, in this minute by the server's clock, or in that in which the stage begins."""
    record = fleet.rollouts.show("demo").record
    [(seconds, _)] = run_blocking(fleet.connection.send_each([("TIME",)]))
    minute = max(int(seconds), record.since_us // 1_000_000) // MINUTE_S
    key = FleetKeys().arm_counts(record.id, record.stage, arm, minute)
    commands = [("HINCRBY", key, name.replace("__", ":"), value) for name, value in fields.items()]
    run_blocking(fleet.connection.send_each([*commands, ("EXPIRE", key, 60)]))


def register(fleet: Fleet) -> None:
    for output in "ab":
        spec = ProgramSpec.parse({"module": "Predict", "signature": f"question -> {output}"}, program="qa")
        run_blocking(fleet.registry.register("qa", spec))
    fleet.label("qa", "prod", 1)


class TestStartingASession:
    def test_values_and_policy_are_one_revision(self, fleet: Fleet) -> None:
        before = run_blocking(fleet.store.head("demo")).token
        record = fleet.rollouts.start("demo", {"a": 2.0}, policy=POLICY, **BY_ANN)
        assert (record.state, record.baseline) == (RolloutState.NEW, str(before))
        snapshot = fleet.session("demo").blocking.snapshot()
        assert (str(snapshot.token), snapshot.value("a")) == (record.candidate, 2.0)
        assert parse_policy(snapshot.value(POLICY_VARIABLE)) == parse_policy(POLICY)
        [event] = fleet.rollouts.events("demo")
        assert (event.kind, event.author, event.reason) == ("started", "ann", "because")

    def test_the_sessions_policy_is_kept_unless_another_one_is_given(self, fleet: Fleet) -> None:
        fleet.session("demo").blocking.set_variables({POLICY_VARIABLE: parse_policy(POLICY).encode()})
        fleet.rollouts.start("demo", {"a": 2.0})
        assert fleet.rollouts.show("demo").policy == parse_policy(POLICY)

    @pytest.mark.parametrize(
        ("candidate", "policy", "error"),
        [
            ({"a": 1.0}, None, RolloutCandidateError),
            ({}, None, RolloutCandidateError),
            ({"dspex.on_refused": "last_good"}, None, RolloutCandidateError),
            ({"a": "text"}, None, ValidationError),
            ({"a": 2.0}, {"stages": [{"share": 0.5}, {"share": 0.1}]}, RolloutPolicyError),
            ({"a": 2.0}, "{", RolloutPolicyError),
            ({"a": 2.0}, {"guards": [{"metric": "beauty"}]}, RolloutPolicyError),
            (3, None, TypeError),
        ],
    )
    def test_what_cant_be_tried_changes_nothing(
        self, fleet: Fleet, candidate: Any, policy: Any, error: type[Exception]
    ) -> None:
        before = run_blocking(fleet.store.head("demo"))
        with pytest.raises(error):
            fleet.rollouts.start("demo", candidate, policy=policy)
        assert run_blocking(fleet.store.head("demo")) == before
        assert run_blocking(RolloutIndex(fleet.connection, FleetKeys()).list()) == []

    def test_a_session_that_was_never_published_has_nothing_to_compare_with(self, fleet: Fleet) -> None:
        with pytest.raises(RolloutCandidateError, match="no revision yet"):
            fleet.rollouts.start("other", {"a": 2.0})
        assert "other" not in run_blocking(fleet.store.sessions())

    def test_an_open_rollout_isnt_overlapped(self, fleet: Fleet) -> None:
        record = fleet.rollouts.start("demo", {"a": 2.0})
        with pytest.raises(RolloutOverlapError, match=record.id):
            fleet.rollouts.start("demo", {"a": 3.0})
        assert fleet.session("demo").blocking.get_variable("a") == 2.0

    def test_a_session_on_which_an_experiment_runs_isnt_staged(self, fleet: Fleet) -> None:
        session = fleet.session("demo").blocking
        tokens = [str(session.snapshot().token), str(session.set_variable("a", 7.0))]
        arms = [{"name": name, "weight": 0.5, "revision": at} for name, at in zip("xy", tokens, strict=True)]
        fleet.experiments.start("demo", {"name": "tone", "arms": arms}, **BY_ANN)
        with pytest.raises(RolloutOverlapError, match="experiment 'tone'"):
            fleet.rollouts.start("demo", {"a": 3.0})
        fleet.experiments.stop("demo", "tone", **BY_ANN)
        assert fleet.rollouts.start("demo", {"a": 3.0}).is_open

    def test_the_policy_that_came_with_a_candidate_is_no_part_of_its_values(self, fleet: Fleet) -> None:
        fleet.rollouts.start("demo", {"a": 2.0}, policy=POLICY)
        fleet.rollouts.abort("demo", **BY_ANN)
        with pytest.raises(RolloutCandidateError, match="baseline"):
            fleet.rollouts.start("demo", {"a": 1.0})

    def test_the_values_of_the_baseline_are_nothing_to_try_after_a_rollback(self, fleet: Fleet) -> None:
        fleet.session("demo").blocking.set_variables({POLICY_VARIABLE: parse_policy(POLICY).encode()})
        fleet.rollouts.start("demo", {"a": 2.0})
        fleet.rollouts.abort("demo", **BY_ANN)
        with pytest.raises(RolloutCandidateError, match="baseline"):
            fleet.rollouts.start("demo", {"a": 1.0})
        assert fleet.rollouts.start("demo", {"a": 3.0}).is_open

    def test_a_policy_that_is_invalid_isnt_published_by_any_way(self, fleet: Fleet) -> None:
        session = fleet.session("demo").blocking
        before = session.snapshot()
        for value in ("{", '{"stages": []}', '{"guards": [{"metric": "beauty"}]}'):
            with pytest.raises(RolloutPolicyError):
                session.set_variable(POLICY_VARIABLE, value)
            with pytest.raises(RolloutPolicyError):
                session.register_variable(POLICY_VARIABLE, "string", value)
        with pytest.raises(ValidationError, match="string of JSON"):
            session.set_variable(POLICY_VARIABLE, 5)
        assert session.snapshot() == before


class TestStartingAProgram:
    def test_a_version_is_staged_for_a_label(self, fleet: Fleet) -> None:
        register(fleet)
        record = fleet.rollouts.start("qa@prod", 2, policy=POLICY, **BY_ANN)
        assert record.candidate.startswith("2:")
        look(fleet)
        report = fleet.rollouts.show("qa@prod")
        assert (report.record.state, report.record.stage, report.policy) == (
            RolloutState.RUNNING, 1, parse_policy(POLICY)
        )  # fmt: skip
        assert [event.kind for event in report.events] == ["started", "stage"]
        for _ in range(2):
            fleet.rollouts.advance("qa@prod", **BY_ANN)
        look(fleet)
        assert fleet.programs()[0].labels == {"prod": 2}
        assert fleet.rollouts.list() == []

    def test_an_invalid_policy_changes_nothing(self, fleet: Fleet) -> None:
        register(fleet)
        with pytest.raises(RolloutPolicyError):
            fleet.rollouts.start("qa@prod", 2, policy={"stages": []})
        with pytest.raises(RolloutStateError, match="was never staged"):
            fleet.rollouts.show("qa@prod")

    def test_variables_are_no_candidate(self, fleet: Fleet) -> None:
        register(fleet)
        with pytest.raises(TypeError, match="number of a version"):
            fleet.rollouts.start("qa@prod", {"a": 2.0})

    def test_what_isnt_registered_is_refused(self, fleet: Fleet) -> None:
        register(fleet)
        with pytest.raises(ProgramNotFoundError):
            fleet.rollouts.start("qa@prod", 9)
        with pytest.raises(ProgramNotFoundError):
            fleet.rollouts.start("nothing@prod", 1)


class TestShowing:
    def test_both_arms_and_every_guard(self, fleet: Fleet) -> None:
        fleet.rollouts.start("demo", {"a": 2.0}, policy=POLICY)
        look(fleet)
        count(fleet, "baseline", n=90, lat__230=90)
        count(fleet, "candidate", n=8, e__InputError=1, lat__230=7, s__helpful__n=4, s__helpful__m=3_000_000)
        report = fleet.rollouts.show("demo")
        assert (report.baseline.predictions, report.candidate.predictions) == (90, 8)
        assert [guard.guard for guard in report.guards] == ["error_rate max_increase 0.01", "score helpful min 0.5"]
        assert (report.guards[0].candidate.value, report.guards[1].candidate.value) == (0.125, 0.75)
        assert (report.needed.candidate, report.needed.baseline) == (2, 0)
        assert "2 more predictions of the candidate" in report.outlook
        shown = report.as_dict()
        assert shown["arms"]["candidate"]["scores"] == {"helpful": {"count": 4, "mean": 0.75}}
        assert shown["rollout"]["share"] == 0.1

    def test_an_ended_rollout_shows_its_last_stage_and_why_it_ended(self, fleet: Fleet) -> None:
        fleet.rollouts.start("demo", {"a": 2.0}, policy=POLICY)
        look(fleet)
        count(fleet, "baseline", n=400)
        count(fleet, "candidate", n=400, e__InputError=200)
        look(fleet)
        report = fleet.rollouts.show("demo")
        assert report.record.state is RolloutState.ROLLED_BACK
        assert (report.candidate.predictions, report.needed.candidate) == (400, 0)
        assert report.outlook.startswith("breached: error_rate")
        assert [staged.target for staged in fleet.rollouts.list()] == ["session:demo"], "its newest is still staged"

    def test_what_the_guards_said_over_time_if_that_is_wanted(self, fleet: Fleet) -> None:
        fleet.rollouts.start("demo", {"a": 2.0}, policy=POLICY)
        look(fleet)
        for predictions in (100, 300):
            count(fleet, "baseline", n=predictions)
            count(fleet, "candidate", n=predictions, e__InputError=predictions // 3)
            look(fleet)
        assert "looks" not in fleet.rollouts.show("demo").as_dict()
        report = fleet.rollouts.show("demo", looks=10)
        assert report.looks
        last = report.as_dict()["looks"][-1]
        assert (last["stage"], last["guards"][0]["guard"], last["guards"][0]["verdict"]) == (
            1, "error_rate max_increase 0.01", "breached",
        )  # fmt: skip
        assert last["at"] <= report.events[-1].at, "it is the look that the rollback follows from"
        assert fleet.rollouts.show("demo", looks=1).looks == report.looks[-1:]
        with pytest.raises(ValueError, match="0 to 600; got 601"):
            fleet.rollouts.show("demo", looks=601)

    def test_what_has_none(self, fleet: Fleet) -> None:
        kinds = {"demo": RolloutNotFoundError, "unknown": SessionNotFoundError, "qa@prod": ProgramNotFoundError}
        for target, kind in kinds.items():
            with pytest.raises(kind):
                fleet.rollouts.show(target)
        assert fleet.rollouts.list() == []

    def test_the_list_names_what_is_staged(self, fleet: Fleet) -> None:
        register(fleet)
        fleet.session("other").blocking.set_variables({"a": 1.0})
        fleet.rollouts.start("demo", {"a": 2.0}, policy=POLICY)
        fleet.rollouts.start("qa@prod", 2)
        found = [(staged.target, staged.stages) for staged in fleet.rollouts.list()]
        assert found == [("program:qa@prod", len(DEFAULT_STAGES)), ("session:demo", len(POLICY["stages"]))]


class TestWatching:
    @pytest.mark.parametrize("target", ["demo", "qa@prod"])
    async def test_each_event_comes_once_and_in_order(self, fleet: Fleet, target: str) -> None:
        await asyncio.to_thread(register, fleet)
        rollouts = fleet.rollouts.aio
        await rollouts.start(target, {"a": 2.0} if target == "demo" else 2, **BY_ANN)
        seen: list[RolloutEvent] = []
        async for event in rollouts.watch(target):
            seen.append(event)
            if event.kind == "started":
                await rollouts.pause(target, **BY_ANN)
            elif event.kind == "paused":
                await rollouts.abort(target, **BY_ANN)
            else:
                break
        assert [event.kind for event in seen] == ["started", "paused", "rolled_back"]
        [last] = await rollouts.events(target, after=seen[-2].position)
        assert last == seen[-1]

    async def test_only_whats_behind_a_position(self, fleet: Fleet) -> None:
        rollouts = fleet.rollouts.aio
        await rollouts.start("demo", {"a": 2.0})
        [started] = await rollouts.events("demo")
        watching = rollouts.watch("demo", after=started.position)
        await rollouts.abort("demo", **BY_ANN)
        assert (await anext(watching)).kind == "rolled_back"
        await watching.aclose()
