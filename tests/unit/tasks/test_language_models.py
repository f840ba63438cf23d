"""The digest of an LM: what changes its answers changes it, and nothing else does."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import SecretStr

from snakepit_bridge.lm.policies import RetryPolicy
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from tasks.language_models import digest_lm

BASE: dict[str, Any] = {"model": "openai/demo", "parameters": {"temperature": 0.5}, "fallbacks": ("other",)}


def digest(*, other: str = "openai/other", **changed: Any) -> str:
    profiles = LMProfiles([LMProfile("demo", **{**BASE, **changed}), LMProfile("other", other)])
    return digest_lm(profiles, profiles.choose("demo"))


@pytest.mark.parametrize(
    "changed",
    [
        {"model": "openai/newer"},
        {"api_base": "http://127.0.0.1:9/v1"},
        {"parameters": {"temperature": 0.7}},
        {"fallbacks": ()},
        {"other": "openai/newer"},
    ],
)
def test_what_changes_its_answers_changes_it(changed: dict[str, Any]) -> None:
    assert digest(**changed) != digest()


@pytest.mark.parametrize(
    "changed",
    [
        {"api_key": SecretStr("another")},
        {"parameters": {"temperature": 0.5, "extra_headers": {"authorization": "Bearer another"}}},
        {"retry": RetryPolicy(attempts=9)},
        {"timeout_s": 5.0},
        {"max_in_flight": 3},
    ],
)
def test_what_changes_no_answer_does_not(changed: dict[str, Any]) -> None:
    assert digest(**changed) == digest()
