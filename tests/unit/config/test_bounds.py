"""The bounds that an operator sets: each has a setting, and both agree."""

from __future__ import annotations

from dataclasses import asdict

import pytest

from config.bounds import BoundSettings
from snakepit_bridge.dspy_integration.bounds import DEFAULT_BOUNDS
from snakepit_bridge.exceptions import ConfigurationError
from workers.runtime import load_bounds


def test_without_a_word_they_are_the_librarys() -> None:
    assert load_bounds() == DEFAULT_BOUNDS
    assert BoundSettings.model_validate({}).model_dump() == asdict(DEFAULT_BOUNDS)


@pytest.mark.parametrize("name", BoundSettings.model_fields)
def test_each_is_set_by_its_variable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"DSPEX_{name.upper()}", "7")
    assert getattr(load_bounds(), name) == 7


@pytest.mark.parametrize("text", ["-1", "many", "0.5"])
def test_one_that_cant_be_is_refused_by_name(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DSPEX_MAX_ATTEMPTS", text)
    with pytest.raises(ConfigurationError, match="DSPEX_MAX_ATTEMPTS"):
        load_bounds()
