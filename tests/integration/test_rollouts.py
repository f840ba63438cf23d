"""Rollouts on real workers: who gets which arm, and that each committed prediction counts once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Generator
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast

import dspy
import pytest
from redis import Redis

from snakepit_bridge.client.handle import Handle
from snakepit_bridge.exceptions import InputError, RolloutMovedError, VariableNotFoundError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.programs.rollouts import ProgramRollouts
from snakepit_bridge.protocol.provenance import Provenance
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent
from snakepit_bridge.rollouts.experiments import Experiment, assign_experiment, encode_experiments
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutRecord, RolloutState, assign
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until

LATER_S = 1e12
NO_GUARDS = '{"stages": [{"share": 0.5, "min_s": 86400}], "guards": [{"metric": "error_rate", "max_increase": 0.9}]}'


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("rollouts")) as playing:
        playing.start()
        playing.fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "warmth"})
        yield playing


def counts_of(play: Stage, record: RolloutRecord, arm: str) -> Counter[str]:
    """Return what was counted of an arm, over all minutes."""
    total: Counter[str] = Counter()
    with Redis.from_url(play.url, decode_responses=True) as client:
        for key in client.scan_iter(f"dspex:{{r:{record.id}}}:counts:{record.stage}:{arm}:*"):
            fields: Any = client.hgetall(key)
            total.update({name: int(value) for name, value in fields.items()})
    return total


def begin_stage(record: RolloutRecord, share: int, now_s: float) -> RolloutRecord:
    """Return a record whose first stage has begun at once; the controller would give the workers time to hear of it."""
    return replace(record.change(RolloutState.RUNNING, stage=1, share=share), since_us=round(now_s * 1e6))


async def before_controller(step: Callable[[], Awaitable[RolloutRecord]]) -> RolloutRecord:
    """Take a step, again if the worker that leads has taken one in between."""
    while True:
        with suppress(RolloutMovedError):
            return await step()


def staged(play: Stage, share: int) -> tuple[str, Token, Token, RolloutRecord]:
    """Return a session whose rollout is at a share, once every worker knows of it."""
    session = fresh("session")
    context = play.fleet.session(session).blocking
    first = context.set_variables({"warmth": 0.1, POLICY_VARIABLE: NO_GUARDS})
    second = context.set_variables({"warmth": 0.9})

    async def begin() -> RolloutRecord:
        head = await play.fleet.store.head(session)
        assert head.rollout is not None
        after = begin_stage(head.rollout, share, head.now)
        return await play.fleet.store.step_rollout(session, head.rollout, RolloutEvent("stage", after))

    record = run_blocking(before_controller(begin))

    def begun() -> bool:
        keys = (f"probe-{number}" for number in range(10**6))
        candidate = next(key for key in keys if assign(record, key, LATER_S, "").arm == "candidate")
        sent = [play.fleet.submit("qa", {"question": fresh("probe")}, session=session, key=candidate) for _ in "12345"]
        return {each.get(PATIENCE_S).provenance.arm for each in sent} == {"candidate"}

    wait_until(begun, "all workers to know of the stage")
    return session, first, second, record


def provenance(handle: Handle) -> Provenance:
    return handle.get(PATIENCE_S).provenance


def test_a_key_gets_its_arm_on_every_worker_and_each_end_counts_once(play: Stage) -> None:
    session, first, second, record = staged(play, 300_000)
    before = {arm: counts_of(play, record, arm)["n"] for arm in ("baseline", "candidate")}
    users = [f"user-{number}" for number in range(60)]
    sent = [(user, play.fleet.submit("qa", {"question": fresh("q")}, session=session, key=user)) for user in users * 3]
    arms: Counter[str] = Counter()
    for user, handle in sent:
        found, expected = provenance(handle), assign(record, user, LATER_S, f"session:{session}")
        assert list(found.arms) == [expected.encode()]
        assert (found.rollout, found.arm) == (record.id, expected.arm)
        token, warmth = (second, 0.9) if expected.arm == "candidate" else (first, 0.1)
        assert (found.token, found.variables) == (str(token), {"warmth": warmth})
        arms[expected.arm] += 1
    assert set(arms) == {"baseline", "candidate"}
    for arm, number in arms.items():
        counted = counts_of(play, record, arm)
        assert counted["n"] - before[arm] == number
        measured = sum(value for name, value in counted.items() if name.startswith("lat:"))
        assert (measured, counted["in"] > 0, counted["pico"] > 0) == (counted["n"], True, True)


def test_what_reaches_the_lm_is_the_arms(play: Stage) -> None:
    session, _, _, record = staged(play, 500_000)
    for user in (f"user-{number}" for number in range(20)):
        question = fresh("q")
        play.fleet.submit("qa", {"question": question}, session=session, key=user).get(PATIENCE_S)
        (sent,) = play.requests_with(question)
        expected = 0.9 if assign(record, user, LATER_S, "").arm == "candidate" else 0.1
        assert sent.body["temperature"] == expected


def test_each_input_of_a_batch_has_its_own_arm(play: Stage) -> None:
    session, first, second, record = staged(play, 500_000)
    handles = play.fleet.submit_batch("qa", [{"question": fresh("b")} for _ in range(40)], session=session)
    tokens = set()
    for handle in handles:
        found, expected = provenance(handle), assign(record, handle.id, LATER_S, "")
        assert (found.arm, found.token) == (expected.arm, str(second if expected.arm == "candidate" else first))
        tokens.add(found.token)
    assert tokens == {str(first), str(second)}
    keyed = play.fleet.submit_batch("qa", [{"question": fresh("b")} for _ in range(5)], session=session, key="user-1")
    assert {provenance(handle).arm for handle in keyed} == {assign(record, "user-1", LATER_S, "").arm}


def test_requirements_beat_the_assignment_and_are_not_measured(play: Stage) -> None:
    session, first, second, record = staged(play, 500_000)
    before = [counts_of(play, record, arm) for arm in ("baseline", "candidate")]
    requirements: list[tuple[dict[str, Any], Token]] = [
        ({"exactly": first}, first), ({"exactly": second}, second), ({"at_least": second}, second),
        ({"at_least": first}, first),
    ]  # fmt: skip
    for required, token in requirements:
        found = provenance(play.fleet.submit("qa", {"question": fresh("q")}, session=session, **required))
        assert (found.token, list(found.arms)) == (str(token), [])
    assert [counts_of(play, record, arm) for arm in ("baseline", "candidate")] == before


def test_a_failure_counts_for_its_arm_by_its_class(play: Stage) -> None:
    session, _, _, record = staged(play, 500_000)
    failed: Counter[str] = Counter()
    for user in (f"user-{number}" for number in range(12)):
        with pytest.raises(InputError):
            play.fleet.submit("qa", {"no_such_field": user}, session=session, key=user).get(PATIENCE_S)
        failed[assign(record, user, LATER_S, "").arm] += 1
    assert len(failed) == 2
    for arm, number in failed.items():
        assert counts_of(play, record, arm)["e:InputError"] == number


def test_a_candidate_that_no_program_can_be_bound_to_fails_its_own_keys_alone(play: Stage) -> None:
    session = fresh("session")
    context = play.fleet.session(session).blocking
    context.set_variables({"warmth": 0.1, POLICY_VARIABLE: NO_GUARDS})
    context.set_variables({"warmth": 77.0})
    for user in (f"user-{number}" for number in range(5)):
        handle = play.fleet.submit("qa", {"question": fresh("q")}, session=session, key=user)
        assert provenance(handle).variables == {"warmth": 0.1}, "no stage has begun"
    batch = play.fleet.submit_batch("qa", [{"question": fresh("b")} for _ in range(5)], session=session)
    assert {provenance(handle).variables["warmth"] for handle in batch} == {0.1}
    refused = wait_until(
        lambda: [each for each in play.fleet.applied(session) if each.error], "a worker to refuse the candidate"
    )
    assert all("77" in each.error for each in refused)


def test_a_program_that_fits_neither_arm_tells_nothing_of_the_candidate(play: Stage) -> None:
    session, misfit = fresh("session"), fresh("misfit")
    play.fleet.register(misfit, dspy.Predict("question -> answer"), bindings={"temperature": "no_such_variable"})
    context = play.fleet.session(session).blocking
    context.set_variables({"warmth": 0.1, POLICY_VARIABLE: NO_GUARDS})
    with pytest.raises(VariableNotFoundError):
        play.fleet.submit(misfit, {"question": "?"}, session=session).get(PATIENCE_S)
    play.fleet.submit("qa", {"question": fresh("q")}, session=session).get(PATIENCE_S)
    second = context.set_variables({"warmth": 0.9})
    acks = wait_until(
        lambda: [each for each in play.fleet.applied(session) if each.token == second], "a worker to try the candidate"
    )
    assert [each.error for each in acks] == [""] * len(acks)
    record = wait_until(
        lambda: found if (found := run_blocking(play.fleet.store.head(session)).rollout) and found.stage else None,
        "the first stage",
    )
    assert record.state is RolloutState.RUNNING


def test_a_label_that_is_staged_gives_each_key_its_version(play: Stage) -> None:
    name = fresh("program")
    for instruction in ("Answer.", "Answer in a word."):
        play.fleet.register(name, dspy.Predict(dspy.make_signature("question -> answer", instruction)))
    play.fleet.label(name, "prod", 1)
    rollouts = ProgramRollouts(ProgramRegistry(play.fleet.connection))

    async def begin() -> RolloutRecord:
        found = await rollouts.read(name, "prod")
        assert found is not None
        after = begin_stage(found.record, 500_000, found.now_s)
        return await rollouts.step(name, "prod", found.record, RolloutEvent("stage", after))

    run_blocking(rollouts.start(name, "prod", 2, NO_GUARDS))
    record = run_blocking(before_controller(begin))
    versions: Counter[int] = Counter()
    for user in (f"user-{number}" for number in range(12)):
        found = provenance(play.fleet.submit(f"{name}@prod", {"question": fresh("q")}, key=user))
        arm = assign(record, user, LATER_S, f"program:{name}@prod")
        assert (list(found.arms), found.version) == ([arm.encode()], 2 if arm.arm == "candidate" else 1)
        versions[found.version] += 1
    batch = play.fleet.submit_batch(f"{name}@prod", [{"question": fresh("b")} for _ in range(20)])
    for handle in batch:
        versions[(found := provenance(handle)).version] += 1
        assert found.arm == assign(record, handle.id, LATER_S, "").arm
    assert {1: counts_of(play, record, "baseline")["n"], 2: counts_of(play, record, "candidate")["n"]} == versions


def test_the_arms_of_an_experiment_get_their_revisions_within_its_segment(play: Stage) -> None:
    session, store = fresh("session"), play.fleet.store
    context = play.fleet.session(session).blocking
    tokens = [context.set_variables({"warmth": warmth}) for warmth in (0.1, 0.5, 0.9)]
    experiment = Experiment.model_validate({
        "id": fresh("e"), "name": "tone", "to_share": 0.8, "segment": {"properties": {"plan": {"const": "pro"}}},
        "arms": [
            {"name": name, "weight": 0.5, "revision": str(token)}
            for name, token in zip(("cold", "warm"), tokens[:2], strict=True)
        ],
    })  # fmt: skip
    run_blocking(
        store.change_experiments(
            session, "", encode_experiments([experiment]), ExperimentEvent("started", experiment, "ann", "try")
        )
    )
    target, of_arm = f"session:{session}", {"cold": tokens[0], "warm": tokens[1], "": tokens[2]}
    wait_until(
        lambda: provenance(play.fleet.submit("qa", {"question": fresh("q")}, session=session)).arm,
        "the worker to know of it",
    )
    seen: Counter[str] = Counter()
    for user in (f"user-{number}" for number in range(30)):
        for plan in ("pro", "free"):
            attributes = {"plan": plan}
            handle = play.fleet.submit("qa", {"question": fresh("q")}, session=session, key=user, attributes=attributes)
            found, arm = provenance(handle), assign_experiment([experiment], user, attributes, target)
            assert list(found.arms) == ([] if arm is None else [arm.encode()])
            assert found.token == str(of_arm[found.arm])
            seen[found.arm] += 1
    assert set(seen) == {"cold", "warm", ""}
    assert seen[""] >= 30, "who isn't in the segment takes no part"


def test_a_key_of_a_megabyte_is_refused_before_anything_is_sent(play: Stage) -> None:
    with pytest.raises(ValueError, match="at most 1024 bytes"):
        play.fleet.submit("qa", {"question": "q"}, key="x" * 2**20)
    with pytest.raises(ValueError, match="Attributes are a mapping"):
        play.fleet.submit("qa", {"question": "q"}, attributes=cast("Any", [1]))
