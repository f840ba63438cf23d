"""Vectors of an LM profile: asked of its endpoint, through the middleware, and checked."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import pytest
from dspy.lm15 import LM15Error, Response
from pydantic import SecretStr

from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.lm.embeddings import EmbeddingEngine
from snakepit_bridge.lm.engine import LMCall, LMMiddleware
from snakepit_bridge.lm.policies import BatchPolicy
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.testing import RecordingLM
from snakepit_bridge.testing.lm.embeddings import embed_text

KEY = "sk-hunter2"


@pytest.fixture
def server() -> Generator[RecordingLM]:
    with RecordingLM(api_key=KEY) as lm:
        yield lm


def profile(server: RecordingLM, name: str = "small", **changes: Any) -> LMProfile:
    return LMProfile(name, f"openai/{name}", server.url, SecretStr(KEY), **changes)


def test_a_profile_embeds_by_its_endpoint(server: RecordingLM) -> None:
    embed = LMProfiles([profile(server)]).open_embedder("openai/small")
    assert embed(["a text", "another"]) == [embed_text("a text"), embed_text("another")]
    assert [(each.model, each.texts) for each in server.embedded] == [("small", ("a text", "another"))]


async def test_its_calls_pass_through_the_middleware_as_those_of_the_lm_do(server: RecordingLM) -> None:
    calls: list[LMCall] = []

    def watch(_: LMProfiles) -> LMMiddleware:
        async def middleware(call: LMCall) -> Response:
            calls.append(call)
            return await call.engine.send(call.request)

        return middleware

    profiles = LMProfiles([profile(server)], middleware=watch)
    engine = EmbeddingEngine(profiles.get_engine("small"))
    assert await engine.embed(["eight characters more"]) == [embed_text("eight characters more")]
    [call] = calls
    assert (call.engine.endpoint.profile, call.engine.operation) == ("small", "embeddings")
    usage = (await call.engine.send(call.request)).usage
    assert (usage.input_tokens, usage.output_tokens) == (5, 0)


@pytest.mark.parametrize("status", [429, 503])
async def test_a_failure_is_that_of_an_lm_call(server: RecordingLM, status: int) -> None:
    engine = EmbeddingEngine(LMProfiles([profile(server)]).get_engine("small"))
    server.fail(status=status, retry_after_s=7)
    with pytest.raises(LM15Error) as failure:
        await engine.embed(["a text"])
    assert failure.value.retry_after == 7
    server.faults.clear()
    assert await engine.embed(["a text"]) == [embed_text("a text")]


def test_what_can_not_embed_is_refused_by_name(server: RecordingLM) -> None:
    declared = [
        profile(server),
        profile(server, "safe", fallbacks=("small",)),
        profile(server, "slow", tier="batch", batch=BatchPolicy()),
        LMProfile("claude", "anthropic/claude-sonnet-4-5", api_key=SecretStr(KEY)),
    ]
    profiles = LMProfiles(declared)
    for name, problem in (
        ("nobody", "it must be an LM profile or an allowed model"),
        ("safe", "it must have no fallbacks|no fallbacks"),
        ("slow", "OpenAI's API, and be of no tier"),
        ("claude", "OpenAI's API"),
    ):
        with pytest.raises(ValidationError, match=f"embedder.*{problem}"):
            profiles.open_embedder(name)
