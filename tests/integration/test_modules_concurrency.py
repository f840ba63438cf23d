"""One program, two sessions, many threads and tasks: no call ever runs on another session's values, or on a mixture."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import dspy
import pytest

from snakepit_bridge.dspy_integration import VariableAwareMixin
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.testing import Recorded, RecordingLM

THREADS = 16
TASKS = 256
QUICK = 500
SOAK = 10_000

PROGRAM = dspy.ChainOfThought("question -> answer")
"""Both sessions' modules hold this very object."""

UNTOUCHED = (PROGRAM.predict.config, PROGRAM.predict.signature)


class Shared(VariableAwareMixin, dspy.Module):
    """Obeys its own session with a program that it shares with others."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.program = PROGRAM
        self.asker = options["session_context"].session_id

    def forward(self, question: str) -> Any:
        return self.program(question=question)

    async def aforward(self, question: str) -> Any:
        return await self.program.acall(question=question)


def publish(session: SessionContext, number: int) -> None:
    """Values that belong together: the token limit and the words say which temperature goes with them."""
    session.blocking.set_variables(
        {"temp": number / 1_000, "limit": 10_000 + number, "words": f"{session.session_id} {number}"}
    )


def aware(session: SessionContext) -> Shared:
    module = Shared(session_context=session)
    for attribute, variable in {"temperature": "temp", "max_tokens": "limit", "instructions": "words"}.items():
        module.bind_to_variable_sync(attribute, variable)
    return module


def is_wrong(request: Recorded) -> bool:
    """Check whether a request mixes revisions or sessions; its question begins with the session that asks."""
    session, number = request.instructions.split()
    session_asked = request.inputs["question"].partition(" ")[0]
    whole = int(number)
    return (session, whole / 1_000, 10_000 + whole) != (session_asked, request.temperature, request.max_tokens)


def in_threads(modules: list[Shared], calls: int) -> None:
    with ThreadPoolExecutor(THREADS) as pool:
        ambient = dspy.settings.lm

        def ask(at: int) -> Any:
            module = modules[at % 2]
            with dspy.context(lm=ambient, trace=[], disable_history=True):
                return module(question=f"{module.asker} {at}")

        for _ in pool.map(ask, range(calls)):
            pass


def in_tasks(modules: list[Shared], calls: int) -> None:
    async def ask_all() -> None:
        numbers = iter(range(calls))

        async def ask_on() -> None:
            for at in numbers:
                module = modules[at % 2]
                await module.acall(question=f"{module.asker} {at}")

        with dspy.context(trace=[], disable_history=True):
            await asyncio.gather(*(ask_on() for _ in range(TASKS)))

    asyncio.run(ask_all())


WAYS = pytest.mark.parametrize("run", [in_threads, in_tasks])


@pytest.fixture
def lm() -> Generator[RecordingLM]:
    with RecordingLM(keep=2 * SOAK) as server:
        ambient = dspy.LM("openai/demo", api_base=server.url, api_key="x", cache=False, num_retries=0)
        with dspy.context(lm=ambient):
            yield server


def no_wrong_values(lm: RecordingLM, run: Callable[[list[Shared], int], None], calls: int) -> None:
    sessions = [SessionContext("even"), SessionContext("odd")]
    for session in sessions:
        publish(session, 1)
    modules = [aware(session) for session in sessions]
    with ThreadPoolExecutor(1) as publisher:
        done = False

        def keep_publishing() -> int:
            for revision in itertools.count(2):
                for at, session in enumerate(sessions):
                    publish(session, 2 * (revision % 400) + at)
                if done:
                    return revision
            raise AssertionError("unreachable")

        published = publisher.submit(keep_publishing)
        try:
            run(modules, calls)
        finally:
            done = True
        assert published.result() > 2
    assert len(lm.requests) == calls
    assert [request.as_json(brief=True) for request in lm.requests if is_wrong(request)] == []
    assert len({request.instructions for request in lm.requests}) > 2, "the values changed meanwhile"
    assert PROGRAM.predict.config == {}
    assert (
        PROGRAM.predict.signature.instructions  # pyright: ignore[reportAttributeAccessIssue]
        == dspy.ChainOfThought("question -> answer").predict.signature.instructions  # pyright: ignore[reportAttributeAccessIssue]
    )


@WAYS
def test_no_call_runs_on_wrong_values(lm: RecordingLM, run: Any) -> None:
    no_wrong_values(lm, run, QUICK)


@WAYS
@pytest.mark.soak
def test_no_call_in_ten_thousand_runs_on_wrong_values(lm: RecordingLM, run: Any) -> None:
    no_wrong_values(lm, run, SOAK)


async def test_the_check_can_fail(lm: RecordingLM) -> None:
    """The control: a naive binding, which writes on the shared program, is caught."""
    predictor = PROGRAM.predict

    async def naive(at: int) -> None:
        name, number = ("even", "odd")[at % 2], at
        predictor.config = {"temperature": number / 1_000, "max_tokens": 10_000 + number}
        predictor.signature = UNTOUCHED[1].with_instructions(f"{name} {number}")
        await asyncio.sleep(0)
        await PROGRAM.acall(question=f"{name} {at}")

    try:
        await asyncio.gather(*(naive(at) for at in range(20)))
    finally:
        predictor.config, predictor.signature = UNTOUCHED
    assert any(is_wrong(request) for request in lm.requests)
