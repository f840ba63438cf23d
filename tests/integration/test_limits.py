"""Limits of the whole fleet on real workers: who waits where, who comes next, what a killed worker leaves behind."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.exceptions import DeadlineExceededError, PredictionCancelledError
from snakepit_bridge.testing.lm.faults import Fault
from tests.conftest import wait_until
from tests.harness.programs import Twice
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, Stopwatch, within

FLEET = "dspex.fleet"
SLOTS = 4
ENV: dict[str, Any] = {"DSPEX_ALLOWED_PACKAGES": "tests"}


@pytest.fixture(scope="module", params=["asyncio", "prefork"])
def play(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), pool=request.param, **ENV) as play:
        register(play.fleet)
        yield play


def register(fleet: Fleet) -> None:
    fleet.register("plain", dspy.Predict("question -> answer"))
    fleet.register("chosen", dspy.Predict("question -> answer"), bindings={"model": "llm"})
    fleet.register("steps", Twice())


@pytest.fixture(autouse=True)
def undisturbed(request: pytest.FixtureRequest) -> Generator[None]:
    yield
    if "play" in request.fixturenames:
        play: Stage = request.getfixturevalue("play")
        play.lm.faults.clear()
        limit(play, concurrency=-1, requests_per_min=-1, tokens_per_min=-1, spend_per_hour=-1)
        wait_until(lambda: not parked(play), "nothing is left in the lanes")


def limit(play: Stage, profile: str = "demo", **limits: float) -> None:
    """Limit a profile, for everybody."""
    values = {f"dspex.limits.{profile}.{name}": float(value) for name, value in limits.items()}
    play.fleet.session(FLEET).blocking.set_variables(values)


def limit_session(play: Stage, session: str, **values: Any) -> None:
    named = {f"dspex.limits.{name}": float(value) for name, value in values.items()}
    play.fleet.session(session).blocking.set_variables(named)


def parked(play: Stage) -> dict[str, int]:
    """How many wait in lanes, by profile."""
    with Redis.from_url(play.url) as client:
        found: Any = client.hgetall("dspex:{limits}:waiting")
    return {profile.decode(): int(count) for profile, count in found.items()}


def is_paused(play: Stage) -> bool:
    with Redis.from_url(play.url) as client:
        return bool(client.hexists("dspex:{limits}:pauses", "demo"))


def ask(play: Stage, program: str = "plain", **options: Any) -> tuple[str, Handle]:
    question = fresh("q")
    return question, play.fleet.submit(program, {"question": question}, **options)


def asked_since(play: Stage, mark: int) -> list[str]:
    """The questions that the LM was asked since it had received so many requests, in order."""
    return [next(iter(request.inputs.values()), "") for request in play.lm.requests[mark:]]


def block(play: Stage) -> None:
    """Limit the profile to nothing, and wait until that is in force."""
    limit(play, concurrency=0)

    def all_are_parked() -> bool:
        # As many at once as there are processes that may not have heard of it yet.
        handles = [ask(play)[1] for _ in range(2 * SLOTS)]
        wait_until(
            lambda: sum(parked(play).values()) + sum(each.ready() for each in handles) >= 2 * SLOTS, "all end up"
        )
        answered = any(each.ready() for each in handles)
        for handle in handles:
            handle.cancel()
        wait_until(lambda: not parked(play), "what tried it is gone")
        return not answered

    wait_until(all_are_parked, "the limit is in force")


# ---------------------------------------------------------------- waiting


def test_tasks_that_wait_hold_no_slot_and_come_back_once_the_limit_is_lifted(play: Stage) -> None:
    session = fresh("s")
    play.fleet.session(session).blocking.set_variables({"llm": "hasty"})
    block(play)
    waiting = [ask(play)[1] for _ in range(3 * SLOTS)]
    wait_until(lambda: parked(play) == {"demo": 3 * SLOTS}, "all wait in their lane")
    with within(5):
        assert ask(play, "chosen", session=session)[1].get(PATIENCE_S).answer
    limit(play, concurrency=-1)
    with within(10):
        assert all(handle.get(PATIENCE_S).answer for handle in waiting)


def is_parked_at_once(play: Stage) -> bool:
    """Check whether a prediction waits instead of being answered, and cancel it if so."""
    question, handle = ask(play)
    wait_until(lambda: parked(play) or handle.ready(), "it to be parked or answered")
    if handle.ready():
        return False
    assert not play.requests_with(question)
    handle.cancel()
    return True


def test_a_changed_limit_is_in_force_within_a_second(play: Stage) -> None:
    block(play)
    handle = ask(play)[1]
    wait_until(lambda: parked(play), "it waits")
    limit(play, concurrency=5)
    started = Stopwatch()
    handle.get(PATIENCE_S)
    assert started.elapsed_s < 2, "a second, and the prediction itself"
    limit(play, concurrency=0)
    started = Stopwatch()
    wait_until(lambda: is_parked_at_once(play), "the next to be parked")
    assert started.elapsed_s < 2, "a second, and the prediction itself"


def test_sessions_get_their_turns_though_one_floods_first(play: Stage) -> None:
    block(play)
    play.lm.faults.delay(0.05)
    flood = [ask(play, session="default") for _ in range(30)]
    wait_until(lambda: parked(play) == {"demo": 30}, "the flood waits")
    for session in (few := [fresh("few"), fresh("few")]):
        play.fleet.session(session).blocking.set_variables({"any": 1})
    others = [ask(play, session=session) for session in few for _ in range(5)]
    wait_until(lambda: parked(play) == {"demo": 40}, "all wait")
    mark = len(play.lm.requests)
    limit(play, concurrency=1)
    for _, handle in (*flood, *others):
        handle.get(PATIENCE_S)
    order = asked_since(play, mark)
    theirs = {question for question, _ in others}
    assert max(order.index(question) for question in theirs) < 25, "not behind the flood of 30"


def test_a_session_that_has_used_up_its_own_limit_holds_up_nobody_else(play: Stage) -> None:
    busy, other = fresh("busy"), fresh("other")
    limit_session(play, busy, concurrency=0)
    play.fleet.session(other).blocking.set_variables({"any": 1})
    limit(play, concurrency=2)
    waiting = [ask(play, session=busy)[1] for _ in range(6)]
    wait_until(lambda: parked(play) == {"demo": 6}, "the busy session waits")
    with within(5):
        for _ in range(5):
            assert ask(play, session=other)[1].get(PATIENCE_S).answer
    limit_session(play, busy, concurrency=1)
    for handle in waiting:
        handle.get(PATIENCE_S)


def test_no_more_calls_are_under_way_than_the_limit_says(play: Stage) -> None:
    block(play)
    play.lm.faults.delay(0.1)
    mark = len(play.lm.requests)
    handles = [ask(play)[1] for _ in range(12)]
    limit(play, concurrency=2)
    for handle in handles:
        handle.get(PATIENCE_S)
    starts = [request.received_at for request in play.lm.requests[mark:]]
    assert len(starts) == 12
    assert all(third - first > 0.09 for first, third in zip(starts, starts[2:], strict=False))


def test_spend_stops_at_the_hours_budget(play: Stage) -> None:
    session = fresh("poor")
    limit_session(play, session, spend_per_hour=1.0)
    answered, waiting = list[Handle](), None
    for _ in range(20):
        handle = ask(play, session=session)[1]
        wait_until(lambda handle=handle: handle.status == "SUCCESS" or parked(play), "it ends or waits")
        if parked(play):
            waiting = handle
            break
        answered.append(handle)
    assert answered, "the budget allows some"
    assert waiting is not None, "and then no more"
    limit_session(play, session, spend_per_hour=100.0)
    assert waiting.get(PATIENCE_S).answer


# ---------------------------------------------------------------- ends


def test_a_cancelled_task_that_was_parked_ends_at_once_and_leaves_its_lane(play: Stage) -> None:
    block(play)
    question, handle = ask(play)
    wait_until(lambda: parked(play), "it waits")
    with within(1):
        handle.cancel()
        with pytest.raises(PredictionCancelledError):
            handle.get(PATIENCE_S)
    wait_until(lambda: not parked(play), "its place is free")
    limit(play, concurrency=-1)
    ask(play)[1].get(PATIENCE_S)
    assert not play.requests_with(question)


def test_a_parked_task_whose_deadline_passes_ends_with_its_named_error(play: Stage) -> None:
    block(play)
    question, handle = ask(play, deadline=1.0)
    with within(4), pytest.raises(DeadlineExceededError):
        handle.get(PATIENCE_S)
    assert not play.requests_with(question)


def test_a_retry_after_pauses_the_profile_everywhere(play: Stage) -> None:
    first = fresh("first")
    limit(play, concurrency=100)
    play.lm.faults.add(Fault("status", status=429, retry_after_s=2, containing=first))
    mark = len(play.lm.requests)
    refused = play.fleet.submit("plain", {"question": first})
    play.await_asked(first)
    wait_until(lambda: is_paused(play), "the profile is paused")
    others = [ask(play)[1] for _ in range(5)]
    for handle in (refused, *others):
        handle.get(PATIENCE_S)
    refused_at, *later = [request.received_at for request in play.lm.requests[mark:]]
    assert min(later) - refused_at > 1.5


def test_a_batch_waits_in_place_and_takes_turns_with_those_that_are_parked(play: Stage) -> None:
    block(play)
    play.lm.faults.delay(0.05)
    batch = play.fleet.submit_batch("plain", [{"question": fresh("b")} for _ in range(10)])
    wait_until(lambda: parked(play).get("demo", 0) >= SLOTS, "the batch waits")
    session = fresh("s")
    play.fleet.session(session).blocking.set_variables({"any": 1})
    single = ask(play, session=session)[1]
    limit(play, concurrency=1)
    single.get(PATIENCE_S)
    for handle in batch:
        assert handle.get(PATIENCE_S).answer


def test_later_calls_of_a_task_wait_in_place(play: Stage) -> None:
    block(play)
    mark = len(play.lm.requests)
    handles = [ask(play, "steps")[1] for _ in range(4)]
    limit(play, requests_per_min=240, concurrency=-1)
    for handle in handles:
        assert handle.get(PATIENCE_S)
    at = [request.received_at for request in play.lm.requests[mark:]]
    assert len(at) == 8
    assert max(at) - min(at) > 1.4, "each of both calls took its turn, four a second"


def test_status_shows_who_waits(play: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    from snakepit_bridge.cli.main import main

    block(play)
    handles = [ask(play)[1] for _ in range(3)]
    wait_until(lambda: parked(play) == {"demo": 3}, "they wait")
    with pytest.raises(SystemExit):
        main(["--redis-url", play.url, "status", "--json"])
    assert json.loads(capsys.readouterr().out)["limits"] == {"demo": {"default": 3}}
    with pytest.raises(SystemExit):
        main(["--redis-url", play.url, "status"])
    assert "limits of demo: 3 wait (3 of default)" in capsys.readouterr().out
    for handle in handles:
        handle.cancel()


# ---------------------------------------------------------------- deaths


@pytest.fixture
def empty(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    """A stage without a worker."""
    with stage(tmp_path_factory.mktemp("stage"), worker=False, **ENV) as play:
        register(play.fleet)
        yield play


def test_a_killed_workers_place_comes_back_and_nothing_parked_is_lost(empty: Stage) -> None:
    play = empty
    limit(play, concurrency=1)
    killed = play.start(pool="asyncio", concurrency=SLOTS)
    hanging = fresh("hanging")
    play.lm.faults.add(Fault("hang", containing=hanging))
    first = play.fleet.submit("plain", {"question": hanging})
    play.await_asked(hanging)
    waiting = [ask(play)[1] for _ in range(5)]
    wait_until(lambda: parked(play) == {"demo": 5}, "they wait behind it")
    killed.kill()
    play.start(pool="asyncio", concurrency=SLOTS)
    for handle in (*waiting, first):
        assert handle.get(PATIENCE_S).answer


def test_another_worker_releases_when_the_one_that_did_is_killed(empty: Stage) -> None:
    play = empty
    killed = play.start(pool="asyncio", concurrency=SLOTS)
    block(play)
    waiting = [ask(play)[1] for _ in range(5)]
    wait_until(lambda: parked(play) == {"demo": 5}, "they wait")
    play.start(pool="asyncio", concurrency=SLOTS)
    killed.kill()
    limit(play, concurrency=2)
    for handle in waiting:
        assert handle.get(PATIENCE_S).answer


def test_nothing_is_lost_while_workers_are_killed_again_and_again(empty: Stage) -> None:
    play = empty
    play.lm.faults.delay(0.05)
    limit(play, requests_per_min=1_800, concurrency=10)
    workers = [play.start(pool="asyncio", concurrency=SLOTS) for _ in range(2)]
    sessions = [fresh("s") for _ in range(3)]
    for session in sessions:
        play.fleet.session(session).blocking.set_variables({"any": 1})
    handles = [ask(play, session=session)[1] for _ in range(100) for session in sessions]
    for _ in range(3):
        enough = min(sum(handle.ready() for handle in handles) + 20, len(handles))
        wait_until(lambda: sum(handle.ready() for handle in handles) >= enough, "it goes on", timeout_s=40)  # noqa: B023
        workers.pop(0).kill()
        workers.append(play.start(pool="asyncio", concurrency=SLOTS))
    for handle in handles:
        assert handle.get(PATIENCE_S).answer
    wait_until(lambda: not parked(play), "nothing is left in the lanes")
