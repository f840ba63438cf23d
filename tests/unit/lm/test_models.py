"""What a model doesn't take is dropped or refused by name, in one table."""

from __future__ import annotations

from typing import Any

import dspy
import pytest
from dspy.clients.lm import _is_openai_reasoning_model
from dspy.lm15 import Config, Message, Request
from pydantic import SecretStr

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.lm import extensions
from snakepit_bridge.lm.models import drop_unsupported, find_family, find_unsupported, native_name
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.testing import Raw, RecordingLM, scripted

MODELS = [
    "o1",
    "o3-mini",
    "o4-mini",
    "o1-pro",
    "o3-mini-2025-01-31",
    "gpt-5",
    "gpt-5-mini",
    "gpt-5.1",
    "gpt-5-chat-latest",
]
MODELS += ["gpt-4o", "gpt-4.1", "o2", "llama-o3", "claude-sonnet-4", "omni", "gpt-5-chat"]  # pyright: ignore[reportConstantRedefinition]


@pytest.mark.parametrize("model", MODELS)
def test_reasoning_models_are_those_that_dspy_takes_for_some(model: str) -> None:
    assert (find_family(f"openai/{model}") is not None) == _is_openai_reasoning_model(f"openai/{model}")
    limit = "max_completion_tokens" if _is_openai_reasoning_model(model) else "max_tokens"
    assert native_name(f"openai/{model}", "max_tokens") == limit


def test_what_a_model_does_not_take_is_left_out_of_a_request_by_name() -> None:
    config = Config(
        temperature=0.7, top_p=0.5, seed=3, stop=("END",), max_tokens=100, extensions={"logit_bias": {}, "user": "me"}
    )
    request = Request(model="openai/any", messages=(Message.user("why?"),), config=config)
    same, nothing = drop_unsupported("openai/gpt-4o", request)
    assert (same, nothing) == (request, ())
    fit, dropped = drop_unsupported("openai/o3-mini", request)
    assert dropped == ("logit_bias", "stop", "temperature", "top_p")
    kept = fit.config
    assert (kept.temperature, kept.top_p, kept.stop, kept.seed, kept.max_tokens) == (None, None, (), 3, 100)
    assert kept.extensions == {"user": "me"}
    assert drop_unsupported("openai/o3-mini", fit) == (fit, ())


def test_what_has_no_value_is_not_refused() -> None:
    assert find_unsupported("openai/o3-mini", {"temperature": None, "seed": 1}) == []
    assert find_unsupported("xai/grok-4", {"stop": "x", "temperature": 0.3}) == ["stop"]


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"model": "openai/o3-mini", "parameters": {"temperature": 0.7}}, "openai/o3-mini takes no temperature"),
        ({"model": "openai/o3-mini", "parameters": {"max_tokens": 100}}, "max_tokens >= 16000"),
        ({"model": "nobody"}, "'nobody' names no provider"),
        ({"model": "openai/"}, "no model id"),
    ],
)
def test_a_profile_that_could_answer_nothing_is_refused_at_start(fields: dict[str, Any], says: str) -> None:
    profiles = LMProfiles([LMProfile("fine", "openai/gpt-4o"), LMProfile("wrong", **fields)])
    with pytest.raises(ConfigurationError, match=f"LM profile 'wrong' can't be used: .*{says}"):
        profiles.check()


def test_a_providers_own_key_is_checked_at_start_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have come out of a file as well."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-canary-of-models\n")
    with pytest.raises(ConfigurationError, match="OPENAI_API_KEY ends in a line break") as wrong:
        LMProfiles([LMProfile("own", "openai/gpt-4o")]).check()
    assert "canary" not in str(wrong.value)


def test_a_further_model_of_a_profile_gets_what_it_takes_of_its_parameters() -> None:
    profile = LMProfile(
        "smart", "openai/gpt-4o", models=("openai/o3",), parameters={"temperature": 0.7, "max_tokens": 500}
    )
    profiles = LMProfiles([profile])
    profiles.check()
    kwargs = profiles.choose("openai/o3").lm.kwargs
    assert kwargs.get("temperature") is None
    assert kwargs["max_completion_tokens"] == 500
    assert profiles.choose("smart").lm.kwargs["temperature"] == 0.7


async def test_no_way_leads_a_temperature_to_a_model_that_takes_none() -> None:
    with RecordingLM() as server:
        lm = LMProfile("smart", "openai/o3-mini", server.url, SecretStr("key-of-models")).build()
        predict = dspy.Predict("question -> answer")
        predict.config = {"temperature": 0.7, "max_tokens": 900}
        await predict.acall(question="by config", lm=lm)
        await dspy.Predict("question -> answer").acall(question="by copy", lm=lm.copy(temperature=1.0))
        await dspy.Predict("question -> answer").acall(question="by call", lm=lm, config={"temperature": 0.3, "n": 2})
        bodies = [request.body for request in server.requests]
    assert len(bodies) == 4
    assert not any("temperature" in body for body in bodies)
    assert bodies[0].get("max_completion_tokens", bodies[0].get("max_tokens")) == 900


@pytest.mark.parametrize("adapter", [dspy.JSONAdapter(), dspy.ChatAdapter()], ids=["asked for", "fallen back to"])
async def test_a_model_with_structured_outputs_is_sent_the_schema(adapter: dspy.Adapter) -> None:
    """DSPy asks such a model for JSON by ``response_format``: at once, or once an answer in its usual form is none."""

    answers = (
        scripted([Raw('{"answer": "42"}')], repeat=True)
        if isinstance(adapter, dspy.JSONAdapter)
        else scripted([Raw("no field at all"), Raw('{"answer": "42"}')])
    )
    with RecordingLM(answers) as server:
        lm = LMProfile("smart", "openai/gpt-4o-mini", server.url, SecretStr("key-of-models")).build()
        with dspy.context(adapter=adapter):
            found = await dspy.Predict("question -> answer").acall(question="why?", lm=lm)
        last = server.requests[-1].body
    assert found.answer == "42"
    assert last["response_format"]["json_schema"]["schema"]["required"] == ["answer"]


@pytest.mark.parametrize("keyword", ["response_format", "function_call", "top_logprobs", "stop", "tool_choice"])
def test_a_keyword_that_takes_no_none_has_its_place_nevertheless(keyword: str) -> None:
    assert extensions._is_canonical(keyword)
