"""The gate around an LM call: what it asks of the limits, in which order, and where a call goes that fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from dspy.lm15 import (
    AuthError,
    LM15Error,
    RateLimitError,
    Response,
    ServerError,
    StreamStartEvent,
    TransportError,
)

from snakepit_bridge.exceptions import (
    DeadlineExceededError,
    LMUnavailableError,
    PredictionCancelledError,
    StoreUnavailableError,
    ValidationError,
)
from snakepit_bridge.lm.engine import LMCall, LMEngine
from snakepit_bridge.lm.policies import CircuitPolicy, RetryPolicy
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from tasks.lm_middleware.chain import LMMiddlewareChain
from tasks.prediction_context import PredictionContext, activate
from tasks.rate_limits.protocol import Estimate, Permit, Used
from tests.unit.tasks.callers import request, response, scope_of

FAST = RetryPolicy(attempts=3, backoff_s=0.001)


class Ledger:
    """Limits that let everything through and write down what they were asked."""

    def __init__(self) -> None:
        self.said: list[tuple[Any, ...]] = []

    async def admit(self, caller: PredictionContext, profile: str, estimate: Estimate) -> Permit:
        self.said.append(("admit", profile, estimate.characters, estimate.max_output_tokens))
        return Permit(profile, "later")

    async def settle(self, permit: Permit, used: Used | None) -> None:
        self.said.append(("settle", permit.id, used))

    async def give_back(self, permit: Permit) -> None:
        self.said.append(("give_back", permit.id))

    async def pause(self, profile: str, seconds: float) -> None:
        self.said.append(("pause", profile, seconds))


class Wanted:
    """Predictions that are wanted until they are not."""

    def __init__(self) -> None:
        self.refusal: Exception | None = None

    async def check_wanted(self, scope: PredictionContext) -> None:
        if self.refusal is not None:
            raise self.refusal


class Provider:
    """What the profiles' LMs answer, by profile, in turn; the last one stays."""

    def __init__(self, **script: list[Response | LM15Error]) -> None:
        self._script: dict[str, Iterator[Any]] = {
            name: iter([*answers, *[answers[-1]] * 100]) for name, answers in script.items()
        }
        self.asked: list[tuple[str, str]] = []

    async def send(self, engine: LMEngine, sent: Any, pieces: Any = None) -> Response:
        self.asked.append((engine.endpoint.profile, sent.model))
        answer = next(self._script[engine.endpoint.profile])
        if isinstance(answer, Response):
            return answer
        if pieces is not None:
            await pieces(StreamStartEvent(id="1", model="demo"))
        raise answer


@pytest.fixture
def ledger() -> Ledger:
    return Ledger()


@pytest.fixture
def wanted() -> Wanted:
    return Wanted()


Ask = Callable[..., Any]


@pytest.fixture
def ask(ledger: Ledger, wanted: Wanted, monkeypatch: pytest.MonkeyPatch) -> Ask:
    def gate(provider: Provider, **changes: Any) -> tuple[LMMiddlewareChain, LMEngine]:
        monkeypatch.setattr(LMEngine, "send", lambda engine, sent, pieces=None: provider.send(engine, sent, pieces))
        fields: dict[str, Any] = {"retry": FAST, "fallbacks": ("cheap",), **changes}
        own = LMProfile("smart", "openai/smart", **fields)
        profiles = LMProfiles([own, LMProfile("cheap", "openai/cheap")])
        parts: Any = (ledger, wanted, None)
        return LMMiddlewareChain(profiles, *parts), profiles.get_engine("smart")

    async def send(provider: Provider, scope: PredictionContext, *, pieces: Any = None, **changes: Any) -> Response:
        calls, engine = gate(provider, **changes)
        with activate(scope):
            return await calls(LMCall(engine, request("why?"), pieces))

    return send


# ---------------------------------------------------------------- the limits


async def test_the_first_call_takes_what_the_task_was_admitted_with_and_later_ones_ask(
    ask: Ask, ledger: Ledger
) -> None:
    scope = scope_of(permit=Permit("smart", "first"))
    provider = Provider(smart=[response()])
    await ask(provider, scope)
    await ask(provider, scope)

    used = Used(3, 2, model="openai/smart")
    assert ledger.said == [("settle", "first", used), ("admit", "smart", 4, None), ("settle", "later", used)]


async def test_a_permit_for_another_profile_is_given_back(ask: Ask, ledger: Ledger) -> None:
    await ask(Provider(smart=[response()]), scope_of(permit=Permit("other", "first")))
    assert ledger.said[0] == ("give_back", "first")


async def test_a_call_that_is_not_made_gives_its_permit_back(ask: Ask, ledger: Ledger, wanted: Wanted) -> None:
    wanted.refusal = PredictionCancelledError("task")
    provider = Provider(smart=[response()])
    with pytest.raises(PredictionCancelledError):
        await ask(provider, scope_of(permit=Permit("smart", "first")))
    assert ledger.said == [("give_back", "first")]
    assert provider.asked == []


async def test_a_call_that_fails_is_settled_without_usage(ask: Ask, ledger: Ledger) -> None:
    with pytest.raises(AuthError):
        await ask(Provider(smart=[AuthError("no")]), scope_of())
    assert ledger.said[-1] == ("settle", "later", None)


@pytest.mark.parametrize("kind", [RateLimitError, ServerError])
async def test_a_retry_after_pauses_the_profile_up_to_the_longest_pause(
    ask: Ask, ledger: Ledger, kind: type[LM15Error]
) -> None:
    await ask(Provider(smart=[kind("slow", retry_after=900.0)], cheap=[response()]), scope_of())
    assert ("pause", "smart", 60.0) in ledger.said


# ---------------------------------------------------------------- tries


async def test_failures_that_may_pass_are_tried_again_and_counted(ask: Ask) -> None:
    scope = scope_of()
    provider = Provider(smart=[ServerError("x"), TransportError("x"), response()])
    assert (await ask(provider, scope, fallbacks=())).text == "because"
    assert (scope.tally.failed_tries, scope.tally.sent_requests, dict(scope.tally.answered_calls)) == (
        2,
        3,
        {"smart": 1},
    )


async def test_the_last_failure_says_how_often_and_where(ask: Ask) -> None:
    with pytest.raises(LMUnavailableError) as failed:
        await ask(Provider(smart=[ServerError("x", status=500)]), scope_of(), fallbacks=())
    error = failed.value
    assert (error.model, error.profile, error.tries, error.status) == ("openai/smart", "smart", 3, 500)
    assert error.again_in_s is None


async def test_tries_of_earlier_deliveries_count(ask: Ask) -> None:
    provider = Provider(smart=[ServerError("x")])
    with pytest.raises(LMUnavailableError):
        await ask(provider, scope_of(tries=2), fallbacks=())
    assert len(provider.asked) == 1


async def test_a_long_pause_is_left_to_the_broker(ask: Ask) -> None:
    provider = Provider(smart=[RateLimitError("slow", retry_after=30.0)])
    with pytest.raises(LMUnavailableError) as failed:
        await ask(provider, scope_of(), fallbacks=())
    assert 30.0 <= (failed.value.again_in_s or 0) <= 33.0
    assert len(provider.asked) == 1


async def test_nothing_is_tried_again_once_a_piece_of_the_answer_went_out(ask: Ask) -> None:
    class Pieces:
        any = False

        async def __call__(self, event: Any) -> None:
            self.any = True

        def void(self) -> None:
            assert not self.any

    provider = Provider(smart=[ServerError("x")])
    with pytest.raises(ServerError):
        await ask(provider, scope_of(), pieces=Pieces())
    assert provider.asked == [("smart", "openai/demo")]


async def test_an_answer_ends_with_the_deadline(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    class Silent(Provider):
        async def send(self, engine: LMEngine, sent: Any, pieces: Any = None) -> Response:
            await asyncio.Event().wait()
            raise AssertionError

    with pytest.raises(DeadlineExceededError):
        await ask(Silent(smart=[response()]), scope_of(deadline=time.time() + 0.05))


async def test_a_policy_that_cannot_be_calls_nobody(ask: Ask) -> None:
    provider = Provider(smart=[response()])
    with pytest.raises(ValidationError, match=r"dspex\.retry.*attempts"):
        await ask(provider, scope_of(variables={"dspex.retry": '{"attempts": 0}'}))
    assert provider.asked == []


# ---------------------------------------------------------------- elsewhere


async def test_a_fallback_is_asked_with_its_own_model(ask: Ask) -> None:
    scope, provider = scope_of(), Provider(smart=[ServerError("x")], cheap=[response()])
    await ask(provider, scope)
    assert provider.asked == [("smart", "openai/demo"), ("cheap", "openai/cheap")]
    assert dict(scope.tally.answered_calls) == {"cheap": 1}


async def test_a_fallbacks_refusal_does_not_hide_the_profiles_own_failure(ask: Ask) -> None:
    provider = Provider(smart=[ServerError("mine", status=503)], cheap=[AuthError("theirs")])
    with pytest.raises(LMUnavailableError, match="mine") as failed:
        await ask(provider, scope_of())
    assert failed.value.tries == 3


async def test_an_open_circuit_sends_nothing_to_its_profile(ask: Ask) -> None:
    """Waiting for it is no try, and holds no place as long as nothing was answered."""
    provider, patient = Provider(smart=[ServerError("x")]), RetryPolicy(backoff_s=0.001)
    with pytest.raises(LMUnavailableError, match="circuit_open") as failed:
        await ask(provider, scope_of(), fallbacks=(), circuit=CircuitPolicy(failures=2, open_s=0.5), retry=patient)
    assert failed.value.tries == len(provider.asked) == 2
    assert failed.value.again_in_s is not None
    assert 0.5 <= failed.value.again_in_s <= failed.value.failing_s < 1.5


# ---------------------------------------------------------------- for how long


async def test_a_failing_lm_is_tried_for_a_time_and_not_so_many_times(ask: Ask) -> None:
    """Forty failures in a row cost nothing as long as the LM is back in time."""
    provider = Provider(smart=[*[ServerError("x"), TransportError("x")] * 20, response()])
    policy = RetryPolicy(backoff_s=0.001, longest_s=0.01)
    scope = scope_of()
    await ask(provider, scope, fallbacks=(), circuit=CircuitPolicy(failures=0), retry=policy)
    assert scope.tally.failed_tries == 40


@pytest.mark.parametrize(
    ("for_s", "left_s", "before_s", "bound_s"),
    [(None, None, 0, 60), (None, 10, 0, 10), (None, 600, 0, 600), (5, None, 0, 5), (5, 600, 0, 5), (5, 2, 0, 2)],
)
async def test_the_time_is_a_minute_or_the_deadline_or_what_the_policy_says(
    ask: Ask, for_s: float | None, left_s: float | None, before_s: float, bound_s: float
) -> None:
    """What is left of it decides whether the task comes again."""
    policy = RetryPolicy(for_s=for_s, backoff_s=1.0, longest_s=1.0, in_place_s=0.0)
    deadline = None if left_s is None else time.time() + left_s

    async def comes_again(failing_s: float) -> bool:
        provider = Provider(smart=[ServerError("x")])
        with pytest.raises(LMUnavailableError) as failed:
            await ask(provider, scope_of(deadline=deadline, failing_s=failing_s), fallbacks=(), retry=policy)
        return failed.value.again_in_s is not None

    if left_s is None or (for_s is not None and for_s < left_s):
        assert await comes_again(bound_s - 2)
        assert not await comes_again(bound_s - 0.4)
    else:
        assert await comes_again(0)


async def test_calls_of_a_task_that_comes_again_are_not_made(ask: Ask) -> None:
    """Whoever caught the failure asks no more; its answer would be paid and thrown away."""
    provider, scope = Provider(smart=[RateLimitError("slow", retry_after=30.0), response()]), scope_of()
    for _ in range(3):
        with pytest.raises(LMUnavailableError, match="slow"):
            await ask(provider, scope, fallbacks=())
    assert len(provider.asked) == 1


async def test_a_storm_of_tries_is_spread(ask: Ask) -> None:
    """Those that failed together don't come again together."""

    async def pause(error: LM15Error) -> float:
        with pytest.raises(LMUnavailableError) as failed:
            await ask(Provider(smart=[error]), scope_of(), fallbacks=(), retry=RetryPolicy(in_place_s=0.0))
        return failed.value.again_in_s or 0.0

    for error, least_s in ((ServerError("x"), 0.5), (RateLimitError("x", retry_after=1.0), 1.0)):
        pauses = sorted([await pause(error) for _ in range(60)])
        assert pauses[0] >= least_s
        assert pauses[-1] - pauses[0] > 0.5


# ---------------------------------------------------------------- what only counts


class Broken(Ledger):
    """Limits whose store is away once the answer has come."""

    async def settle(self, permit: Permit, used: Used | None) -> None:
        raise StoreUnavailableError("redis://host", "gone")

    async def pause(self, profile: str, seconds: float) -> None:
        raise StoreUnavailableError("redis://host", "gone")

    async def give_back(self, permit: Permit) -> None:
        raise RuntimeError("a bug")


async def test_limits_that_cannot_be_told_cost_no_answer(
    ask: Ask, ledger: Ledger, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The answer was there and paid, and what only counts it is said once."""
    for name in ("settle", "pause", "give_back"):
        monkeypatch.setattr(ledger, name, getattr(Broken(), name))
    scope = scope_of(permit=Permit("other", "first"))
    provider = Provider(smart=[ServerError("x", retry_after=0.001), response()])
    assert (await ask(provider, scope, fallbacks=())).text == "because"
    assert caplog.text.count("Can't update the rate limits") == 1


async def test_the_ends_of_answers_are_counted(ask: Ask) -> None:
    scope = scope_of()
    await ask(Provider(smart=[replace(response(), finish_reason="length"), response()]), scope)
    assert (dict(scope.tally.finish_reasons), scope.tally.last_finish_reason) == ({"length": 1}, "length")
