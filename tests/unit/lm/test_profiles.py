"""LM profiles: what a variable may name, what becomes of it, and that no key is ever shown."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import dspy
import pytest
from pydantic import SecretStr

from snakepit_bridge.exceptions import ConfigurationError, LMError, ValidationError
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles, copy_with_model
from snakepit_bridge.testing import RecordingLM

KEY = "sk-hunter2"
FAST = LMProfile(
    "fast",
    "openai/small",
    "http://127.0.0.1:1/v1",
    SecretStr(KEY),
    {"temperature": 0.1},
    ("openai/tiny",),
    note="cheap",
)
DEEP = LMProfile("deep", "openai/large", api_key=SecretStr("sk-other"), engine="litellm", timeout_s=5)


def ask(lm: dspy.LM) -> Any:
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter(use_json_adapter_fallback=False)):
        return dspy.Predict("question -> answer")(question="What is a book?")


# ---------------------------------------------------------------- choosing


@pytest.mark.parametrize(
    ("name", "profile", "model"),
    [
        (None, "fast", "openai/small"),
        ("fast", "fast", "openai/small"),
        ("deep", "deep", "openai/large"),
        ("openai/large", "deep", "openai/large"),
        ("openai/tiny", "fast", "openai/tiny"),
    ],
)
def test_a_profile_or_an_allowed_model_is_found(name: str | None, profile: str, model: str) -> None:
    choice = LMProfiles([FAST, DEEP]).choose(name)

    assert (choice.profile, choice.lm.model) == (profile, model)


def test_one_name_is_one_lm_for_the_life_of_the_profiles() -> None:
    profiles = LMProfiles([FAST, DEEP])

    assert profiles.choose("fast") is profiles.choose("fast")
    assert profiles.choose("openai/tiny") is not profiles.choose("fast")


def test_the_default_can_be_named() -> None:
    assert LMProfiles([FAST, DEEP], default="deep").choose().profile == "deep"


@pytest.mark.parametrize("name", ["fats", "openai/other", "anthropic/large", "http://elsewhere", "small"])
def test_anything_else_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(ValidationError) as refused:
        LMProfiles([FAST, DEEP]).choose(name, variable="llm")

    assert refused.value.variable == "llm"
    assert "deep, fast, openai/large, openai/small, openai/tiny" in str(refused.value)


def test_a_misspelt_name_gets_a_hint() -> None:
    with pytest.raises(ValidationError, match="Did you mean 'deep'"):
        LMProfiles([FAST, DEEP]).choose("dep")


def test_without_profiles_the_error_says_how_to_declare_one() -> None:
    assert not LMProfiles()
    with pytest.raises(ConfigurationError, match="DSPEX_LM_PROFILES"):
        LMProfiles().choose()


def test_two_profiles_of_one_name_and_an_unknown_default_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="share a name"):
        LMProfiles([FAST, LMProfile("fast", "openai/x")])
    with pytest.raises(ConfigurationError, match="'slow' isn't one of: deep, fast"):
        LMProfiles([FAST, DEEP], default="slow")


@pytest.mark.parametrize("fallback", ["slow", "fast"])
def test_a_fallback_is_another_declared_profile(fallback: str) -> None:
    with pytest.raises(ConfigurationError, match=f"The fallback '{fallback}' of LM profile 'fast' isn't one of: deep"):
        LMProfiles([replace(FAST, fallbacks=(fallback,)), DEEP])


def test_profiles_are_read_as_a_collection() -> None:
    profiles = LMProfiles([FAST, DEEP])

    assert list(profiles) == [FAST, DEEP]
    assert profiles["deep"] is DEEP
    assert bool(profiles)


# ---------------------------------------------------------------- what is built


def test_a_built_lm_neither_caches_nor_retries_and_has_the_profiles_parameters() -> None:
    lm = FAST.build()
    engine: Any = lm.engine

    assert lm.cache is False
    assert lm.num_retries == 0
    assert lm.kwargs["temperature"] == 0.1
    assert engine.async_engine.endpoint.timeout_s == 120.0


def test_endpoint_key_and_parameters_reach_the_server() -> None:
    with RecordingLM(api_key=KEY) as server:
        profile = LMProfile("demo", "openai/demo", server.url, SecretStr(KEY), {"top_p": 0.25}, ("openai/demo-2",))
        ask(profile.build())
        ask(LMProfiles([profile]).choose("openai/demo-2").lm)

        assert [request.model for request in server.requests] == ["demo", "demo-2"]
        assert all(request.authorised for request in server.requests)
        server.assert_all_sent(top_p=0.25, status=200)


def test_the_server_really_asks_for_the_key() -> None:
    with RecordingLM(api_key=KEY) as server, pytest.raises(Exception, match=r"401|[Uu]nauthori[sz]ed|[Kk]ey"):
        ask(LMProfile("demo", "openai/demo", server.url, SecretStr("wrong")).build())


def test_the_same_call_twice_is_two_requests() -> None:
    with RecordingLM() as server:
        lm = LMProfile("demo", "openai/demo", server.url, SecretStr(KEY)).build()
        ask(lm)
        ask(lm)

        assert len(server.requests) == 2


# ---------------------------------------------------------------- the key


@pytest.mark.parametrize("show", [repr, str, "{}".format, lambda thing: repr(getattr(thing, "__dict__", ""))])
def test_no_key_is_shown(show: Any) -> None:
    profiles = LMProfiles([FAST, DEEP])
    choice = profiles.choose("fast")

    for thing in (FAST, [FAST], profiles, profiles.names, {"profile": FAST}):
        assert KEY not in show(thing)
    assert "sk-" not in repr(choice)


def test_no_key_is_in_an_error() -> None:
    faults = (
        lambda: LMProfiles([FAST]).choose("nowhere"),
        lambda: LMProfiles([FAST, FAST]),
        lambda: LMProfiles([FAST], "nowhere"),
    )
    for fault in faults:
        with pytest.raises((ValidationError, ConfigurationError)) as error:
            fault()
        assert KEY not in repr(error.value) + str(error.value)
    assert KEY not in str(LMError("openai/small", "down", "no answer"))


# ---------------------------------------------------------------- without profiles


@pytest.mark.parametrize(
    ("ambient", "wanted", "model"),
    [
        ("openai/gpt-4o", "gpt-4o-mini", "openai/gpt-4o-mini"),
        ("openai/gpt-4o", "openai/gpt-4o-mini", "openai/gpt-4o-mini"),
        ("openai/gpt-4o", "openai/gpt-4o", "openai/gpt-4o"),
    ],
)
def test_another_model_of_the_same_provider_keeps_everything_else(ambient: str, wanted: str, model: str) -> None:
    lm = dspy.LM(ambient, api_base="http://127.0.0.1:1/v1", api_key=KEY, cache=False, temperature=0.3)
    other = copy_with_model(lm, wanted)

    assert other.model == model
    assert other.kwargs == lm.kwargs
    assert lm.model == ambient


@pytest.mark.parametrize("wanted", ["anthropic/claude", "azure/gpt-4o", "http://elsewhere/v1", "evil/openai/gpt-4o"])
def test_a_key_never_goes_to_another_provider(wanted: str) -> None:
    with pytest.raises(ValidationError, match="only models of the current provider 'openai'") as refused:
        copy_with_model(dspy.LM("openai/gpt-4o", api_key=KEY), wanted, variable="llm")

    assert refused.value.variable == "llm"
    assert KEY not in str(refused.value)


def test_another_model_really_answers() -> None:
    with RecordingLM() as server:
        lm = dspy.LM("openai/demo", api_base=server.url, api_key=KEY, cache=False, num_retries=0)
        ask(copy_with_model(lm, "demo-2"))

        server.assert_all_sent(model="demo-2")
