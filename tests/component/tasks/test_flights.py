"""Single flight over processes, each played by a cache of its own on one Redis."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

import pytest
from dspy.lm15 import Response, ServerError
from redis import Redis

from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.pubsub import Subscription
from tasks.prediction_context import PredictionContext
from tasks.response_cache.cache_key import cache_key
from tasks.response_cache.single_flight import AnswerCache
from tasks.response_cache.store import AnswerStore
from tests.harness.waiting import PATIENCE_S, eventually
from tests.unit.tasks.callers import call, prediction, response


class Process:
    """A process of the fleet, as far as its cache goes, whose parses end on this loop."""

    def __init__(self, url: str) -> None:
        self.connection = RedisConnection(url)
        self.signals = Subscription(self.connection)
        self.cache = AnswerCache(AnswerStore(self.connection, namespace="dspex"), self.signals)
        self.signals.start()

    async def ask(
        self, ask: Callable[[], Awaitable[Response]], *, parses: bool = True
    ) -> tuple[Response, PredictionContext]:
        scope = prediction()
        answer = await self.cache.get_or_call(scope, call(), ask)
        self.cache.resolve(scope, answer.text or "", parsed=parses)
        return answer, scope

    async def aclose(self) -> None:
        await self.signals.aclose()
        await self.connection.aclose()


@pytest.fixture
async def processes(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[list[Process]]:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr("tasks.response_cache.single_flight.get_home_loop", lambda: loop)
    started = [Process(redis_url) for _ in range(3)]
    yield started
    for process in started:
        await process.aclose()


class Provider:
    """Answers when it is let, and counts."""

    def __init__(self) -> None:
        self.asked = 0
        self.may = asyncio.Event()

    async def __call__(self) -> Response:
        self.asked += 1
        await self.may.wait()
        return response()

    async def was_asked(self, times: int = 1) -> None:
        async def enough() -> bool:
            return self.asked >= times

        await eventually(enough, f"{times} calls")


async def test_all_processes_together_make_one_call(processes: list[Process]) -> None:
    provider = Provider()
    asking = [asyncio.create_task(process.ask(provider)) for process in processes for _ in range(10)]
    await provider.was_asked()
    provider.may.set()
    answers = await asyncio.gather(*asking)

    assert provider.asked == 1
    assert {answer.text for answer, _ in answers} == {"because"}
    assert sum(scope.tally.shared_answers for _, scope in answers) == 29
    assert sum(1 for answer, _ in answers if answer.usage.input_tokens) == 1


async def test_a_kept_answer_needs_no_call(processes: list[Process], redis_url: str) -> None:
    provider = Provider()
    provider.may.set()
    await processes[0].ask(provider)

    async def kept() -> bool:
        with Redis.from_url(redis_url) as client:
            return bool(client.keys("*:answer"))

    await eventually(kept, "the answer is kept")
    _, scope = await processes[1].ask(provider)
    assert (provider.asked, scope.tally.cache_hits) == (1, 1)


async def test_an_answer_that_was_not_parsed_is_neither_shared_nor_kept(processes: list[Process]) -> None:
    provider = Provider()
    first = asyncio.create_task(processes[0].ask(provider, parses=False))
    await provider.was_asked()
    others = [asyncio.create_task(process.ask(provider)) for process in processes]
    provider.may.set()
    await asyncio.gather(first, *others)
    assert provider.asked == 2


async def test_a_cancelled_leader_is_followed_by_another(processes: list[Process]) -> None:
    provider = Provider()
    leader = asyncio.create_task(processes[0].ask(provider))
    await provider.was_asked()
    followers = [asyncio.create_task(process.ask(provider)) for process in processes]
    await asyncio.sleep(0)
    leader.cancel()
    await provider.was_asked(2)
    provider.may.set()
    await asyncio.gather(*followers)
    assert provider.asked == 2


async def test_a_cancelled_follower_leaves_the_call_alone(processes: list[Process]) -> None:
    provider = Provider()
    leader = asyncio.create_task(processes[0].ask(provider))
    await provider.was_asked()
    followers = [asyncio.create_task(process.ask(provider)) for process in processes[:2]]
    await asyncio.sleep(0)
    for follower in followers:
        follower.cancel()
        with suppress(asyncio.CancelledError):
            await follower
    provider.may.set()
    await leader
    assert provider.asked == 1


async def test_a_failure_is_that_of_all_who_wait_in_the_process(processes: list[Process]) -> None:
    calls = 0

    async def fail() -> Response:
        nonlocal calls
        calls += 1
        await asyncio.sleep(0)
        raise ServerError("x")

    ends = await asyncio.gather(*(processes[0].ask(fail) for _ in range(5)), return_exceptions=True)
    assert [type(end) for end in ends] == [ServerError] * 5
    assert calls == 1


async def test_without_redis_the_provider_is_asked() -> None:
    process = Process("redis://127.0.0.1:1/0")
    provider = Provider()
    provider.may.set()
    answer = await process.cache.get_or_call(prediction(), call(), provider)
    assert answer.text == "because"
    await process.aclose()


# ---------------------------------------------------------------- what makes two calls different


def test_calls_are_the_same_only_if_all_of_it_is() -> None:
    first = cache_key(prediction(), call(), across_sessions=False)
    assert cache_key(prediction(), call(), across_sessions=False) == first
    for other in (call("openai/other"), call(key="another"), call(base="http://y/v1"), call(text="how?")):
        assert cache_key(prediction(), other, across_sessions=False) != first
    assert cache_key(prediction(), replace(call(), rollout_id=2), across_sessions=False) != first
    assert cache_key(prediction("other"), call(), across_sessions=False) != first
    assert cache_key(prediction("other"), call(), across_sessions=True) == cache_key(
        prediction(), call(), across_sessions=True
    )


def test_the_same_call_again_in_one_prediction_is_another() -> None:
    scope = prediction()
    assert cache_key(scope, call(), across_sessions=False) != cache_key(scope, call(), across_sessions=False)


def test_no_key_is_in_a_name() -> None:
    assert "hunter2" not in cache_key(prediction(), call(key="hunter2"), across_sessions=False)


async def test_an_answer_that_middleware_changed_is_shared_once_the_changed_one_is_parsed(
    processes: list[Process],
) -> None:
    first, second, _ = processes
    provider, scope = Provider(), prediction()
    provider.may.set()
    answer = await first.cache.get_or_call(scope, call(), provider)
    changed = response("changed")
    first.cache.replace_answers(scope, [answer], changed)
    waiting = asyncio.create_task(second.ask(provider))
    first.cache.resolve(scope, changed.text or "", parsed=True)
    shared, _ = await asyncio.wait_for(waiting, PATIENCE_S)
    assert (shared.text, provider.asked) == (answer.text, 1)


async def test_an_answer_that_middleware_discarded_is_not_shared(processes: list[Process]) -> None:
    first, second, _ = processes
    provider, scope = Provider(), prediction()
    provider.may.set()
    discarded = await first.cache.get_or_call(scope, call(), provider)
    first.cache.replace_answers(scope, [discarded, response("kept")], response("kept"))
    await second.ask(provider)
    assert provider.asked == 2
