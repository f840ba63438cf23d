"""The user's own middleware: how it is found, in which order it runs, and what of it reaches the provider."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from dspy.lm15 import Config, Message, Request, Response, ServerError

from snakepit_bridge.exceptions import BridgeError, ConfigurationError
from snakepit_bridge.lm.engine import LMCall, LMEngine
from snakepit_bridge.lm.extensions import MESSAGES
from snakepit_bridge.lm.policies import RetryPolicy
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.programs.imports import AllowedImports
from tasks.lm_middleware.chain import LMMiddlewareChain
from tasks.lm_middleware.middleware import PredictionCall
from tasks.lm_middleware.user_middleware import UserMiddleware, load_user_middleware
from tasks.prediction_context import activate
from tasks.rate_limits.protocol import Unlimited
from tests.unit.tasks.callers import request, response, scope_of
from tests.unit.tasks.lm_middleware import samples

HERE = "tests.unit.tasks.lm_middleware.samples"
ALLOWED = AllowedImports((HERE,))


class Wanted:
    async def check_wanted(self, scope: object) -> None: ...


def profiles(*middleware: str) -> LMProfiles:
    retry = RetryPolicy(attempts=3, backoff_s=0.001)
    guarded = LMProfile("guarded", "openai/demo", retry=retry, middleware=middleware)
    return LMProfiles([guarded, LMProfile("plain", "openai/plain")])


def load(*paths: str, of_profile: Sequence[str] = (), allowed: AllowedImports = ALLOWED) -> UserMiddleware | None:
    return load_user_middleware(paths, profiles(*of_profile), allowed)


@pytest.fixture(autouse=True)
def seen() -> list[str]:
    samples.SEEN.clear()
    return samples.SEEN


async def ask(
    user: UserMiddleware | None,
    answers: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    profile: str = "guarded",
    known: LMProfiles | None = None,
) -> tuple[Response, list[Request]]:
    sent: list[Request] = []

    async def send(_: LMEngine, request: Request, sink: Any = None) -> Response:
        sent.append(request)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(LMEngine, "send", send)
    known = known or profiles()
    wanted: Any = Wanted()
    cache: Any = None
    chain = LMMiddlewareChain(known, Unlimited(), wanted, cache, user)
    with activate(scope_of("t-1")):
        return await chain(LMCall(known.get_engine(profile), request("why?"))), sent


async def test_it_runs_once_per_call_whatever_the_retries_and_the_settings_is_outermost(
    monkeypatch: pytest.MonkeyPatch, seen: list[str]
) -> None:
    user = load(f"{HERE}:Outer", of_profile=[f"{HERE}:inner"])
    answer, sent = await ask(user, [ServerError("x"), response()], monkeypatch)
    assert answer.text == "because"
    assert seen == ["outer", "inner guarded qa t-1 2"]
    assert [len(request.messages) for request in sent] == [2, 2]


async def test_a_profiles_own_is_not_run_for_another(monkeypatch: pytest.MonkeyPatch, seen: list[str]) -> None:
    await ask(load(of_profile=[f"{HERE}:inner"]), [response()], monkeypatch, profile="plain")
    assert seen == []


async def test_what_is_no_response_is_an_error_that_names_the_middleware(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TypeError, match=r"must return the response, not NoneType: forgetful"):
        await ask(load(f"{HERE}:forgetful"), [response()], monkeypatch)


def test_none_is_none() -> None:
    assert load() is None


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("nonsense", "'nonsense' isn't an import path"),
        ("os:system", r"'os:system' isn't in an allowed package \(tests\.unit\.\S+\); allow it in the settings"),
        (f"{HERE}:Missing", "can't be imported here: AttributeError"),
        (f"{HERE}:Response", "is only imported there"),
        (f"{HERE}:Blocking", "isn't LM middleware. Give it a method `async def __call__"),
        (f"{HERE}:lonely", "isn't LM middleware"),
        (f"{HERE}:Fussy", r"can't be created: TypeError: .*limit"),
    ],
)
def test_what_cannot_be_used_is_named_with_its_place(path: str, says: str) -> None:
    with pytest.raises(ConfigurationError, match=f"DSPEX_LM_MIDDLEWARE.*{says}"):
        load(path)
    with pytest.raises(ConfigurationError, match=f"LM profile 'guarded'.*{says}"):
        load(of_profile=[path])


def fallback_profiles(**middleware: Sequence[str]) -> LMProfiles:
    retry = RetryPolicy(attempts=1)
    local = LMProfile(
        "guarded", "openai/demo", retry=retry, fallbacks=("away",), middleware=tuple(middleware.get("local", ()))
    )
    return LMProfiles([local, LMProfile("away", "openai/away", middleware=tuple(middleware.get("away", ())))])


@pytest.mark.parametrize(
    ("common", "local", "runs"),
    [
        ((), (), ["inner away"]),
        ((), (f"{HERE}:inner",), ["inner guarded"]),
        ((f"{HERE}:inner",), (), ["inner guarded"]),
    ],
)
async def test_a_fallbacks_own_runs_around_its_calls_unless_it_has_run_already(
    monkeypatch: pytest.MonkeyPatch, seen: list[str], common: Sequence[str], local: Sequence[str], runs: list[str]
) -> None:
    known = fallback_profiles(local=local, away=[f"{HERE}:inner"])
    user = load_user_middleware(common, known, ALLOWED)
    await ask(user, [ServerError("x"), response()], monkeypatch, known=known)
    assert [note.rsplit(" ", 3)[0] for note in seen] == runs


async def test_one_that_is_named_twice_is_created_and_run_once(
    monkeypatch: pytest.MonkeyPatch, seen: list[str]
) -> None:
    user = load(f"{HERE}:Outer", f"{HERE}.Outer", of_profile=[f"{HERE}:Outer"])
    await ask(user, [response()], monkeypatch)
    assert seen == ["outer"]


def test_messages_that_a_request_cannot_hold_are_not_changed_without_a_word() -> None:
    config = Config(extensions={MESSAGES: [{"role": "user", "content": [{"type": "input_audio"}]}]})
    engine = profiles().get_engine("guarded")
    call = PredictionCall(scope_of("t-1"), LMCall(engine, request("why?", config=config)), engine)
    warmer = replace(call.request, config=replace(config, temperature=0.5))
    assert call.with_request(warmer).request.config.temperature == 0.5
    with pytest.raises(BridgeError, match="changed the messages of a call with audio"):
        call.with_request(replace(call.request, messages=(Message.user("other"),)))


async def test_a_fallbacks_middleware_that_returns_no_response_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    known = fallback_profiles(away=[f"{HERE}:forgetful"])
    user = load_user_middleware((), known, ALLOWED)
    with pytest.raises(TypeError, match=r"must return the response, not NoneType: forgetful"):
        await ask(user, [ServerError("x"), response()], monkeypatch, known=known)


def test_a_config_made_anew_does_not_lose_the_messages_that_a_request_cannot_hold() -> None:
    config = Config(extensions={MESSAGES: [{"role": "user", "content": [{"type": "input_audio"}]}]})
    engine = profiles().get_engine("guarded")
    call = PredictionCall(scope_of("t-1"), LMCall(engine, request("why?", config=config)), engine)
    with pytest.raises(BridgeError, match="changed the messages of a call with audio"):
        call.with_request(replace(call.request, config=Config(temperature=0.5)))
