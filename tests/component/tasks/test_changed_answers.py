"""Middleware that changes answers, or picks among several, outside the response cache: what of them is shared."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from dspy.lm15 import Message, Request, Response

from snakepit_bridge.lm.engine import LMCall, LMEngine
from snakepit_bridge.lm.middleware import MiddlewareCall, NextMiddleware
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.pubsub import Subscription
from tasks.lm_middleware.chain import LMMiddlewareChain
from tasks.lm_middleware.user_middleware import UserMiddleware
from tasks.prediction_context import PredictionContext, activate
from tasks.rate_limits.protocol import Unlimited
from tasks.response_cache.single_flight import AnswerCache
from tasks.response_cache.store import AnswerStore
from tests.unit.tasks.callers import prediction, request, response

PROFILES = LMProfiles([LMProfile("demo", "openai/demo")])
SOON_S = 5.0


class Wanted:
    async def check_wanted(self, scope: object) -> None: ...


async def shout(call: MiddlewareCall, call_next: NextMiddleware) -> Response:
    """Changes the answer's text."""
    answer = await call_next(call)
    return replace(answer, message=Message.assistant((answer.text or "").upper()))


async def pick_first(call: MiddlewareCall, call_next: NextMiddleware) -> Response:
    """Asks another question as well, and returns the answer to the program's own."""
    first = await call_next(call)
    await call_next(call.with_request(request("another?")))
    return first


async def fail(call: MiddlewareCall, call_next: NextMiddleware) -> Response:
    """Fails once it has the answer."""
    await call_next(call)
    raise RuntimeError("no")


class Process:
    """A process whose provider answers each question with "because", and counts them."""

    def __init__(self, url: str) -> None:
        connection = RedisConnection(url)
        self.signals = Subscription(connection)
        self.connection = connection
        self.cache = AnswerCache(AnswerStore(connection, namespace="dspex"), self.signals)
        self.asked: list[str] = []
        self.signals.start()

    async def ask(self, middleware: Any, scope: PredictionContext, text: str = "why?") -> Response:
        wanted: Any = Wanted()
        chain = LMMiddlewareChain(
            PROFILES, Unlimited(), wanted, self.cache, UserMiddleware([middleware], {}, self.cache)
        )
        with activate(scope):
            return await asyncio.wait_for(chain(LMCall(PROFILES.get_engine("demo"), request(text))), SOON_S)

    async def send(self, sent: Request, sink: Any = None) -> Response:
        [message] = sent.messages
        self.asked.append(str(getattr(message.parts[0], "text", "")))
        return response()


@pytest.fixture
async def process(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Process]:
    loop = asyncio.get_running_loop()
    monkeypatch.setattr("tasks.response_cache.single_flight.get_home_loop", lambda: loop)
    process = Process(redis_url)

    async def send(_: LMEngine, sent: Request, sink: Any = None) -> Response:
        return await process.send(sent, sink)

    monkeypatch.setattr(LMEngine, "send", send)
    yield process
    await process.signals.aclose()
    await process.connection.aclose()


async def test_a_changed_answer_is_shared_once_the_program_has_parsed_it(process: Process) -> None:
    first = prediction()
    answer = await process.ask(shout, first)
    assert answer.text == "BECAUSE"
    process.cache.resolve(first, "BECAUSE", parsed=True)
    second = prediction()
    assert (await process.ask(shout, second)).text == "BECAUSE"
    assert process.asked == ["why?"]
    assert second.tally.shared_answers + second.tally.cache_hits == 1


async def test_a_changed_answer_that_was_not_parsed_is_not_shared_even_if_its_program_succeeds(
    process: Process,
) -> None:
    first = prediction()
    await process.ask(shout, first)
    process.cache.resolve(first, "BECAUSE", parsed=False)
    process.cache.finish(first, succeeded=True)
    await process.ask(shout, prediction())
    assert process.asked == ["why?", "why?"]


async def test_an_answer_that_middleware_discards_is_not_shared_and_holds_up_nobody(process: Process) -> None:
    first = prediction()
    await process.ask(pick_first, first)
    process.cache.resolve(first, "because", parsed=True)
    await process.ask(shout, prediction(), "another?")
    await process.ask(shout, prediction())
    assert process.asked == ["why?", "another?", "another?"]


async def test_an_answer_on_which_middleware_fails_is_not_shared_and_holds_up_nobody(process: Process) -> None:
    with pytest.raises(RuntimeError, match="no"):
        await process.ask(fail, prediction())
    await process.ask(shout, prediction())
    assert process.asked == ["why?", "why?"]
