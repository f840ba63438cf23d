"""A bound variable is seen where it counts: in the HTTP requests that the LM server received, in every one of them."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Generator
from typing import Any

import dspy
import pytest
from pydantic import SecretStr

from snakepit_bridge.dspy_integration import (
    VariableAwareChainOfThought,
    VariableAwarePredict,
    VariableAwareReAct,
)
from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots import open_store
from snakepit_bridge.testing import RecordingLM

SIGNATURE: Any = dspy.Signature("question -> answer", "Answer like a librarian.")  # pyright: ignore[reportCallIssue]


def lookup(word: str) -> str:
    """Look a word up."""
    return f"{word}: a word"


def predict(**kwargs: Any) -> Any:
    return VariableAwarePredict(SIGNATURE, **kwargs)


def chain(**kwargs: Any) -> Any:
    return VariableAwareChainOfThought(SIGNATURE, **kwargs)


def react(**kwargs: Any) -> Any:
    return VariableAwareReAct(SIGNATURE, tools=[lookup], **kwargs)


Build = Callable[..., Any]
Call = Callable[[Any], Awaitable[Any]]


async def in_a_thread(module: Any) -> Any:
    return await asyncio.to_thread(module, question="What is a book?")


async def blocking_on_the_loop(module: Any) -> Any:
    return module(question="What is a book?")


async def acall(module: Any) -> Any:
    return await module.acall(question="What is a book?")


async def forward_async(module: Any) -> Any:
    return await module.forward_async(question="What is a book?")


# The agent's step asks twice, for a tool and to finish, and the extraction once.
MODULES = pytest.mark.parametrize(("build", "requests"), [(predict, 1), (chain, 1), (react, 3)])
CALLS = pytest.mark.parametrize("call", [in_a_thread, blocking_on_the_loop, acall, forward_async])
TARGETS = pytest.mark.parametrize(
    ("target", "first", "then"),
    [
        ("temperature", 0.25, 1.5),
        ("top_p", 0.5, 0.75),
        ("max_tokens", 111, 222),
        ("instructions", "Answer like a pirate.", "Answer like a poet."),
        ("model", "demo-a", "demo-b"),
    ],
)


@pytest.fixture(scope="module")
def server() -> Generator[RecordingLM]:
    with RecordingLM() as lm:
        yield lm


@pytest.fixture(autouse=True)
def _fresh_log(server: RecordingLM) -> None:
    server.clear()


@pytest.fixture(autouse=True)
def _ambient_lm(server: RecordingLM) -> Generator[None]:
    lm = dspy.LM("openai/demo", api_base=server.url, api_key="none-needed", cache=False, num_retries=0)
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        yield


@pytest.fixture
def ctx(redis_url: str) -> SessionContext:
    return SessionContext("effects", open_store(redis_url))


@TARGETS
@CALLS
@MODULES
async def test_a_bound_value_is_in_every_request_and_follows_the_variable(
    server: RecordingLM,
    ctx: SessionContext,
    build: Build,
    requests: int,
    call: Call,
    target: str,
    first: Any,
    then: Any,
) -> None:
    await ctx.set_variable("steered", first)
    module = build(session_context=ctx)
    await module.bind_to_variable(target, "steered")

    for value in (first, then):
        await ctx.set_variable("steered", value)
        server.clear()
        await call(module)
        assert len(server.requests) == requests
        server.assert_all_sent(**{target: _seen(value) if target == "instructions" else value})

    if target == "instructions":
        assert all("librarian" not in request.system and "pirate" not in request.system for request in server.requests)


def _seen(text: str) -> Callable[[str], bool]:
    """ReAct's own words follow the instructions; the user's come first."""
    return lambda instructions: instructions.startswith(text)


@MODULES
async def test_an_unbound_module_sends_none_of_them(
    server: RecordingLM, ctx: SessionContext, build: Build, requests: int
) -> None:
    await ctx.set_variables({"temperature": 0.25, "top_p": 0.5})
    await build(session_context=ctx).acall(question="What is a book?")

    assert len(server.requests) == requests
    server.assert_all_sent(
        temperature="(absent)", top_p="(absent)", model="demo", instructions=_seen("Answer like a l")
    )


@MODULES
async def test_unbinding_gives_the_plain_modules_requests_back(
    server: RecordingLM, ctx: SessionContext, build: Build, requests: int
) -> None:
    await ctx.set_variables({"temperature": 0.25, "style": "Answer like a pirate."})
    module = build(session_context=ctx)
    await module.bind_to_variable("temperature", "temperature")
    await module.bind_to_variable("instructions", "style")
    await module.acall(question="What is a book?")
    server.clear()

    module.unbind_variable("temperature")
    module.unbind_variable("instructions")
    await module.acall(question="What is a book?")

    assert len(server.requests) == requests
    server.assert_all_sent(temperature="(absent)", instructions=_seen("Answer like a librarian."))


@MODULES
async def test_one_call_takes_all_bound_values_from_one_revision(
    server: RecordingLM, ctx: SessionContext, build: Build, requests: int
) -> None:
    first = {"t": 0.1, "p": 0.1, "m": "demo-1", "i": "Version 1."}
    await ctx.set_variables(first)
    module = build(session_context=ctx)
    for target, variable in {"temperature": "t", "top_p": "p", "model": "m", "instructions": "i"}.items():
        await module.bind_to_variable(target, variable)

    async def publish() -> None:
        for n in range(2, 8):
            await ctx.set_variables({"t": n / 10, "p": n / 10, "m": f"demo-{n}", "i": f"Version {n}."})

    await asyncio.gather(publish(), *(module.acall(question="What is a book?") for _ in range(8)))

    assert len(server.requests) == 8 * requests
    for request in server.requests:
        n = int(request.model.removeprefix("demo-"))
        assert (request.temperature, request.top_p) == (n / 10, n / 10)
        assert request.instructions.startswith(f"Version {n}.")


@MODULES
async def test_the_token_limit_of_a_reasoning_model_is_sent_under_its_own_name(
    server: RecordingLM, ctx: SessionContext, build: Build, requests: int
) -> None:
    """DSPy ignores ``max_tokens`` there: the LM itself holds ``max_completion_tokens``, which would win."""
    reasoning = dspy.LM(
        "openai/gpt-5-mini",
        api_base=server.url,
        api_key="none-needed",
        cache=False,
        num_retries=0,
        temperature=1.0,
        max_tokens=20_000,
    )
    await ctx.set_variable("limit", 16_001)
    module = build(session_context=ctx)
    await module.bind_to_variable("max_tokens", "limit")

    with dspy.context(lm=reasoning):
        await module.acall(question="What is a book?")

    assert len(server.requests) == requests
    assert [request.body.get("max_completion_tokens") for request in server.requests] == [16_001] * requests
    assert not any("max_tokens" in request.body for request in server.requests)


@pytest.mark.parametrize("path", ["react", "extract.predict"])
async def test_a_path_steers_one_predictor_of_react_and_leaves_the_others(
    server: RecordingLM, ctx: SessionContext, path: str
) -> None:
    await ctx.set_variable("t", 0.25)
    module = react(session_context=ctx)
    await module.bind_to_variable(f"{path}.temperature", "t")

    await module.acall(question="What is a book?")

    steps = ["next_tool_name" in request.outputs for request in server.requests]
    assert steps == [True, True, False]
    steered = [request.temperature == 0.25 for request in server.requests]
    assert steered == [step == (path == "react") for step in steps]


@MODULES
async def test_a_profile_brings_its_model_and_parameters_and_a_variable_goes_over_them(
    server: RecordingLM, ctx: SessionContext, build: Build, requests: int
) -> None:
    key = SecretStr("none-needed")
    profiles = LMProfiles(
        [
            LMProfile("fast", "openai/demo-fast", server.url, key, {"temperature": 0.1}),
            LMProfile("deep", "openai/demo-deep", server.url, key, {"temperature": 0.9, "top_p": 0.9}),
        ]
    )
    steered = SessionContext("profiles", ctx.store, profiles=profiles)
    await steered.set_variables({"llm": "deep", "temperature": 0.4})
    module = build(session_context=steered)
    await module.bind_to_variable("model", "llm")
    await module.bind_to_variable("temperature", "temperature")

    await module.acall(question="What is a book?")

    assert len(server.requests) == requests
    server.assert_all_sent(model="demo-deep", temperature=0.4, top_p=0.9)

    await steered.set_variable("llm", "nowhere")
    with pytest.raises(ValidationError, match="deep, fast"):
        await module.acall(question="What is a book?")


@pytest.mark.parametrize("build", [predict, chain, react])
async def test_a_value_outside_the_range_never_reaches_the_lm(
    server: RecordingLM, ctx: SessionContext, build: Build
) -> None:
    await ctx.set_variable("t", 0.5)
    module = build(session_context=ctx)
    await module.bind_to_variable("temperature", "t")
    await ctx.set_variable("t", 5.0)

    with pytest.raises(ValidationError, match="from 0 to 2"):
        await module.acall(question="What is a book?")

    assert server.requests == []
