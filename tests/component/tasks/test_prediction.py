"""One prediction: what it takes from its request, what it hands back, and where a deadline ends it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import dspy
import pytest

from config.settings import FleetSettings
from snakepit_bridge.delivery.payloads import Payloads
from snakepit_bridge.elixir.demand import SessionDemand
from snakepit_bridge.exceptions import (
    AuthorityAwayError,
    BridgeError,
    DeadlineExceededError,
    InputError,
    RevisionNotReachedError,
    SessionNotFoundError,
    StalenessExceededError,
)
from snakepit_bridge.programs.build import serialize_module
from snakepit_bridge.protocol.json_values import BOUNDS
from snakepit_bridge.protocol.messages import PredictionRequest, Requirement, Result
from snakepit_bridge.protocol.provenance import Provenance
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, ArmAssignment, RolloutState
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.snapshots.freshness import FreshnessPolicy, OutagePolicy
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import AuthoritySign
from snakepit_bridge.testing import RecordingLM
from snakepit_bridge.variables import Variable
from tasks.prediction import run_prediction
from tasks.preparation import decode_arms
from tasks.requests import Delivery, fetch_payloads
from tasks.requests import select_inputs as taken_of
from tasks.revisions import SessionSnapshots
from tasks.runtime import Runtime
from tests.harness.waiting import PATIENCE_S, eventually
from workers.runtime import build_runtime

DELIVERY = Delivery("task", "worker@host", 1, 0.0)


def delivered(**outputs: Any) -> dict[str, Any]:
    return Result(outputs, {"token": "1.1"}).encode()


# ---------------------------------------------------------------- inputs

NOWHERE = Payloads(RedisConnection("redis://localhost:1"), "dspex")


def delivery_of(request: PredictionRequest) -> Any:
    return taken_of(asyncio.run(fetch_payloads(NOWHERE, request)), BOUNDS)


def chained(inputs: Any, **take: str) -> PredictionRequest:
    return PredictionRequest("p", inputs, take=take or None, chained=True)


def test_plain_inputs_are_taken_as_they_are() -> None:
    assert delivery_of(PredictionRequest("p", {"a": 1})) == {"a": 1}


def test_a_previous_results_outputs_are_taken_by_their_names_or_as_told() -> None:
    previous = delivered(answer="42", reasoning="because")
    assert delivery_of(chained(previous)) == {"answer": "42", "reasoning": "because"}
    assert delivery_of(chained(previous, text="answer")) == {"text": "42"}


def test_a_groups_outputs_are_taken_as_lists() -> None:
    previous: Any = [delivered(answer="a"), delivered(answer="b")]
    assert delivery_of(chained(previous, texts="answer")) == {"texts": ["a", "b"]}
    assert delivery_of(chained(previous)) == {"answer": ["a", "b"]}


def test_an_output_that_is_not_there_is_named() -> None:
    with pytest.raises(InputError, match=r"'p' can't take input 'text': .*no output 'anwser'.*answer"):
        delivery_of(chained(delivered(answer="42"), text="anwser"))


def test_a_group_whose_members_differ_is_refused_by_name() -> None:
    previous: Any = [delivered(answer="a"), delivered(label="b")]
    with pytest.raises(InputError, match=r"'p' can't take input 'answer'"):
        delivery_of(chained(previous))


@pytest.mark.parametrize("inputs", [None, "text", 7, [], ["a"], [{"a": 1}], [delivered(a=1), {"a": 1}]])
def test_inputs_that_are_no_object_are_refused(inputs: Any) -> None:
    with pytest.raises(InputError, match=r"must be an object of named inputs, not (NoneType|str|int|list)"):
        delivery_of(chained(inputs))
    with pytest.raises(InputError, match=r"must be an object of named inputs, not (NoneType|str|int|list)"):
        delivery_of(PredictionRequest("p", inputs))


def test_inputs_that_look_like_a_result_are_data_outside_a_chain() -> None:
    """Only the request says that its inputs are a previous result, never the inputs themselves."""
    for inputs in (delivered(answer="42"), {"v": 1, "payload": "payload:00:1"}, {"$payload": "00", "bytes": 1}):
        assert delivery_of(PredictionRequest("p", inputs)) == inputs


def test_what_another_task_of_a_chain_returned_is_the_inputs() -> None:
    for inputs in ({"question": "why?"}, {"v": 2, "outputs": {}, "provenance": {}, "inputs": {}}):
        assert delivery_of(chained(inputs)) == inputs


def test_a_previous_results_values_are_as_they_were() -> None:
    """Also those that had to be escaped for Celery."""
    odd = {"__type__": "datetime", "__value__": "2026-01-02"}
    assert delivery_of(chained(delivered(answer=odd))) == {"answer": odd}


def test_inputs_that_are_too_deep_are_refused_by_name() -> None:
    """Those that no client of ours has looked at."""
    deep: Any = 1
    for _ in range(200):
        deep = [deep]
    with pytest.raises(InputError, match=r"'p' can't take input 'a': it is nested deeper than 100 levels"):
        delivery_of(PredictionRequest("p", {"a": deep}))


# ---------------------------------------------------------------- the whole


@pytest.fixture
async def runtime(worker_settings: FleetSettings) -> AsyncIterator[Runtime]:
    runtime = build_runtime(worker_settings)
    spec = serialize_module(dspy.Predict("question -> answer"), program="qa", bindings={"temperature": "temp"})
    await runtime.registry.register("qa", spec)
    await runtime.registry.register("plain", serialize_module(dspy.Predict("question -> answer"), program="plain"))
    yield runtime
    await runtime.aclose()


async def publish(url: str, session: str, **values: Any) -> Token:
    store = RedisStore(url)
    token = await store.publish(session, {name: Variable.declare(name, value) for name, value in values.items()})
    await store.aclose()
    return token


async def test_a_prediction_runs_under_one_snapshot_and_says_which(
    runtime: Runtime, lm: RecordingLM, redis_url: str
) -> None:
    token = await publish(redis_url, "s", temp=0.25)
    request = PredictionRequest("qa", {"question": "why?"}, "s", Requirement("at_least", token))
    result = await run_prediction(runtime, request, Delivery("task", "worker@host", 2, time.time() - 1))
    provenance = Provenance.decode(result.provenance)
    assert result.outputs == {"answer": "answer of why?"}
    lm.assert_all_sent(temperature=0.25)
    assert (provenance.task_id, provenance.worker, provenance.attempt) == ("task", "worker@host", 2)
    assert (provenance.session, provenance.token, provenance.variables) == ("s", str(token), {"temp": 0.25})
    assert 1000 <= provenance.timings.queued_ms < 5000


@pytest.mark.parametrize(
    "at_risk", [replace(DELIVERY, deliveries=2), replace(DELIVERY, hard_limit_s=9.0)], ids=["lost", "limited"]
)
async def test_the_arms_of_a_prediction_that_may_be_ended_from_outside_are_kept_for_whoever_ends_it(
    runtime: Runtime, at_risk: Delivery
) -> None:
    policy = {POLICY_VARIABLE: Variable.declare(POLICY_VARIABLE, "{}")}
    await runtime.store.publish("staged", {"temp": Variable.declare("temp", 0.1), **policy})
    await runtime.store.publish("staged", {"temp": Variable.declare("temp", 0.2)})
    head = await runtime.store.head("staged")
    assert head.rollout is not None
    begun = replace(head.rollout.change(RolloutState.RUNNING, stage=1, share=1_000_000), since_us=1)
    await runtime.store.step_rollout("staged", head.rollout, RolloutEvent("stage", begun))
    request, key = PredictionRequest("plain", {"question": "why?"}, "staged"), FleetKeys().prediction_arms("task")
    await run_prediction(runtime, request, DELIVERY)
    assert await runtime.results.execute_read("GET", key) is None, "most predictions pay nothing"
    await run_prediction(runtime, request, at_risk)
    kept = decode_arms(await runtime.results.execute_read("GET", key))
    assert kept == (ArmAssignment(begun.id, "candidate", 1, "session:staged"),)


class Joke(dspy.Signature):
    """Tell a joke."""

    joke: str = dspy.OutputField()


async def test_a_program_without_inputs_runs_as_it_does_locally(runtime: Runtime) -> None:
    await runtime.registry.register("joke", serialize_module(dspy.ChainOfThought(Joke), program="joke"))
    assert (await run_prediction(runtime, PredictionRequest("joke", {}), DELIVERY)).outputs["joke"]
    with pytest.raises(InputError, match="topic"):
        await run_prediction(runtime, PredictionRequest("joke", {"topic": "cats"}), DELIVERY)
    # What it compares is no field of its signature.
    await runtime.registry.register("best", serialize_module(dspy.MultiChainComparison(Joke), program="best"))
    with pytest.raises(InputError, match="'completions'"):
        await run_prediction(runtime, PredictionRequest("best", {}), DELIVERY)


async def test_without_a_time_of_sending_nothing_was_queued(runtime: Runtime) -> None:
    result = await run_prediction(runtime, PredictionRequest("plain", {"question": "why?"}), DELIVERY)
    assert Provenance.decode(result.provenance).timings.queued_ms == 0.0


async def test_a_request_past_its_deadline_is_refused_before_anything_is_read(lm: RecordingLM) -> None:
    nothing: Any = None
    with pytest.raises(DeadlineExceededError, match=r"task missed its deadline by 5"):
        await run_prediction(nothing, PredictionRequest("qa", {}, deadline=time.time() - 5), DELIVERY)


async def test_a_deadline_ends_a_slow_lm_call(runtime: Runtime, lm: RecordingLM) -> None:
    lm.hang()
    request = PredictionRequest("plain", {"question": "why?"}, deadline=time.time() + 0.4)
    with pytest.raises(DeadlineExceededError):
        await run_prediction(runtime, request, DELIVERY)
    assert time.time() < request.deadline + 2


async def test_one_that_waited_for_room_past_its_deadline_never_asks(runtime: Runtime, lm: RecordingLM) -> None:
    full = asyncio.Semaphore(1)
    await full.acquire()
    asyncio.get_running_loop().call_later(0.3, full.release)
    request = PredictionRequest("plain", {"question": "why?"}, deadline=time.time() + 0.2)
    with pytest.raises(DeadlineExceededError):
        await run_prediction(replace(runtime, concurrency_limits={"demo": full}), request, DELIVERY)
    assert lm.requests == []


async def test_inputs_are_checked_before_the_lm_is_asked(runtime: Runtime, lm: RecordingLM) -> None:
    with pytest.raises(InputError, match=r"it has no such input\. The program takes: question"):
        await run_prediction(runtime, PredictionRequest("plain", {"quesion": "why?"}), DELIVERY)
    assert lm.requests == []


async def test_a_requirement_that_is_not_met_ends_it(runtime: Runtime, lm: RecordingLM, redis_url: str) -> None:
    token = await publish(redis_url, "s", temp=0.25)
    ahead = Requirement("at_least", Token(token.epoch, token.revision + 1))
    with pytest.raises(RevisionNotReachedError):
        await run_prediction(runtime, PredictionRequest("qa", {"question": "why?"}, "s", ahead), DELIVERY)
    assert lm.requests == []


async def publish_as_elixir(url: str, session: str, age_s: float, **values: Any) -> Token:
    store = RedisStore(url)
    fence = await store.raise_fence(session, publisher="elixir")
    changes = {name: Variable.declare(name, value) for name, value in values.items()}
    token = await store.publish(session, changes, publisher="elixir", fence=fence, age_s=age_s)
    await store.aclose()
    return token


async def test_a_session_that_its_authority_has_not_confirmed_lately_is_refused_or_served_as_declared(
    runtime: Runtime, lm: RecordingLM, redis_url: str
) -> None:
    token = await publish_as_elixir(redis_url, "s", 100.0, temp=0.25)
    request = PredictionRequest("qa", {"question": "why?"}, "s", Requirement("at_least", token), max_staleness=5.0)
    with pytest.raises(StalenessExceededError, match=r"last confirmed by its authority 1\d\d\.\d s ago"):
        await run_prediction(runtime, request, DELIVERY)
    assert lm.requests == []
    with pytest.raises(StalenessExceededError):
        await run_prediction(runtime, replace(request, outage="serve_stale(50)"), DELIVERY)

    served = await run_prediction(runtime, replace(request, outage="serve_stale(3600)"), DELIVERY)
    provenance = Provenance.decode(served.provenance)
    assert (provenance.outage, provenance.staleness_s >= 100) == (True, True)
    unbounded = await run_prediction(runtime, replace(request, max_staleness=None), DELIVERY)
    assert Provenance.decode(unbounded.provenance).outage is False


@pytest.mark.parametrize("terms", [{"max_staleness": -1}, {"max_staleness": "soon"}, {"outage": "shrug"}])
async def test_terms_that_make_no_sense_are_refused_by_name(runtime: Runtime, terms: dict[str, Any]) -> None:
    with pytest.raises(BridgeError, match="outage policy is invalid"):
        await run_prediction(runtime, PredictionRequest("plain", {"question": "why?"}, **terms), DELIVERY)


async def test_a_results_revision_can_be_read_for_as_long_as_the_result(
    runtime: Runtime, redis_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = await publish(redis_url, "s", temp=0.25)
    request = PredictionRequest("qa", {"question": "why?"}, "s", Requirement("at_least", token))
    await run_prediction(runtime, request, DELIVERY)
    store = RedisStore(redis_url)
    await store.drop("s")
    kept = await store.read_at("s", token)
    assert kept.value("temp") == 0.25
    await store.aclose()


async def test_a_session_that_nobody_follows_yet_is_wished_for_and_awaited(redis_url: str) -> None:
    store = RedisStore(redis_url)
    wanted = SessionDemand(RedisConnection(redis_url))
    sessions = SessionSnapshots(Replica(store, 0.2), wanted, 10.0)
    serving = asyncio.create_task(sessions.serve("new", Requirement(), FreshnessPolicy()))

    async def wished() -> bool:
        return "new" in await wanted.read_idle_times()

    await eventually(wished, "the wish")
    token = await publish(redis_url, "new", temp=0.5)
    assert (await serving).snapshot.token == token
    await sessions.replica.aclose()


async def test_a_wish_that_nobody_grants_ends_in_time(redis_url: str) -> None:
    sessions = SessionSnapshots(Replica(RedisStore(redis_url), 0.2), SessionDemand(RedisConnection(redis_url)), 0.3)
    with pytest.raises(SessionNotFoundError):
        await asyncio.wait_for(sessions.serve("never", Requirement(), FreshnessPolicy()), PATIENCE_S)
    await sessions.replica.aclose()


async def publish_silent(url: str, session: str, ago_s: float, silence_s: float = 0.3) -> Token:
    store = RedisStore(url)
    at = time.time() - ago_s
    changes: dict[str, Variable | None] = {"temp": Variable.declare("temp", 0.5)}
    heard = AuthoritySign(at, silence_s)
    token = await store.publish(session, changes, publisher="elixir", looked_at=at, heard=heard)
    await store.aclose()
    return token


@pytest.mark.parametrize("outage", ["fail", "serve_stale(3600)"])
async def test_a_session_that_was_let_go_is_wished_for_before_its_authority_counts_as_away(
    redis_url: str, outage: str
) -> None:
    """Refreshers drop what nobody uses; while one of them reaches Elixir, it is merely not followed yet."""
    connection = RedisConnection(redis_url)
    wanted, terms = SessionDemand(connection), FreshnessPolicy.of(None, outage)
    sessions = SessionSnapshots(Replica(RedisStore(redis_url), 0.2), wanted, 10.0)
    await publish_silent(redis_url, "idle", ago_s=900)
    await connection.send_each([("ZADD", "dspex:refreshers", 1, "one"), ("EXPIRE", "dspex:refreshers", 60)])
    serving = asyncio.create_task(sessions.serve("idle", Requirement(), terms))

    async def wished() -> bool:
        return "idle" in await wanted.read_idle_times()

    await eventually(wished, "the wish")
    await publish_silent(redis_url, "idle", ago_s=0, silence_s=60)
    served = await serving
    assert (served.outage, served.staleness_s < 5) == (False, True)
    await sessions.replica.aclose()


@pytest.mark.parametrize("refreshers", [True, False])
async def test_a_session_that_nobody_brings_back_fails_at_once_the_next_time(redis_url: str, refreshers: bool) -> None:
    """Nobody waits where no refresher reaches Elixir, nor again where the wait has been in vain."""
    connection = RedisConnection(redis_url)
    replica = Replica(RedisStore(redis_url), 0.2)
    sessions = SessionSnapshots(replica, SessionDemand(connection), 1.5)
    await publish_silent(redis_url, "gone", ago_s=900)
    if refreshers:
        await connection.send_each([("ZADD", "dspex:refreshers", 1, "one"), ("EXPIRE", "dspex:refreshers", 60)])
    await replica.snapshot("gone")
    await asyncio.sleep(0.4)  # so that it has heard from the store for longer than the authority may be silent
    took: list[float] = []
    for _ in range(2):
        begun = time.monotonic()
        with pytest.raises(AuthorityAwayError):
            await sessions.serve("gone", Requirement(), FreshnessPolicy())
        took.append(time.monotonic() - begun)
    assert (took[0] >= 1.5, took[1] < 1.0) == (refreshers, True)
    await replica.aclose()


@pytest.mark.parametrize(("named", "ends"), [(None, True), ("fail", False), ("serve_stale(5)", False)])
async def test_a_prediction_that_names_no_contract_has_that_of_its_worker(
    runtime: Runtime, redis_url: str, named: str | None, ends: bool
) -> None:
    await publish_silent(redis_url, "s", ago_s=900)
    request = PredictionRequest("qa", {"question": "why?"}, "s", outage=named)
    lenient = replace(runtime, outage_policy=OutagePolicy.serve_stale(3_600))
    if ends:
        done = await run_prediction(lenient, request, DELIVERY)
        assert Provenance.decode(done.provenance).outage is True
    with pytest.raises(AuthorityAwayError):
        await run_prediction(runtime if ends else lenient, request, DELIVERY)
