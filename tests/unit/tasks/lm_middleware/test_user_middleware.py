"""The user's own middleware: how it is found, in which order it runs, and what of it reaches the provider."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from dspy.lm15 import Request, Response, ServerError

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.lm.engine import LMCall, LMEngine
from snakepit_bridge.lm.policies import RetryPolicy
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.programs.imports import AllowedImports
from tasks.lm_middleware.chain import LMMiddlewareChain
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
    user: UserMiddleware | None, answers: list[Any], monkeypatch: pytest.MonkeyPatch, profile: str = "guarded"
) -> tuple[Response, list[Request]]:
    sent: list[Request] = []

    async def send(_: LMEngine, request: Request, sink: Any = None) -> Response:
        sent.append(request)
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(LMEngine, "send", send)
    known = profiles()
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
