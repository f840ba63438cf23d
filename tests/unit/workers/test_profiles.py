"""The LM profiles of a worker: those of its file, or one for the model that its settings name."""

from __future__ import annotations

from pathlib import Path

import pytest

from snakepit_bridge.exceptions import ConfigurationError
from tests.harness.worker_settings import KEY_VARIABLE, offline_settings, write_profiles
from workers.profiles import load_profiles


@pytest.fixture
def profiles(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(KEY_VARIABLE, "sk-secret")
    return write_profiles(tmp_path)


# ---------------------------------------------------------------- LM profiles


def test_the_file_declares_the_profiles_and_their_default(profiles: Path) -> None:
    found = load_profiles(offline_settings(lm_profiles=profiles, lm="openai/other"))
    assert [(profile.name, profile.model) for profile in found] == [("first", "openai/one"), ("second", "openai/two")]
    assert found.default == "second"
    key = found["second"].api_key
    assert key is not None
    assert key.get_secret_value() == "sk-secret"


def test_one_model_makes_one_profile() -> None:
    found = load_profiles(offline_settings(lm="openai/gpt-4o"))
    assert [(profile.name, profile.model, profile.api_key) for profile in found] == [("default", "openai/gpt-4o", None)]
    assert found.default == "default"


def test_a_fleet_can_be_without_profiles() -> None:
    found = load_profiles(offline_settings())
    assert not found
    assert list(found) == []


def test_a_key_that_is_not_in_the_environment_is_named(profiles: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIFECYCLE_KEY")
    with pytest.raises(ConfigurationError, match=r"LIFECYCLE_KEY.* isn't set\. Correct the file or the environment\."):
        load_profiles(offline_settings(lm_profiles=profiles))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "can't be read"),
        ("default = ", "isn't TOML"),
        ("[profiles.a]\nmodle = 'x'", r"is wrong at profiles\.a\.model"),
        ("default = 'b'\n[profiles.a]\nmodel = 'x'", "default LM profile 'b' isn't one of: a"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(text: str | None, says: str, tmp_path: Path) -> None:
    path = tmp_path / "lm.toml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigurationError, match=says):
        load_profiles(offline_settings(lm_profiles=path))
