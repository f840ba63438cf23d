"""What of DSPy is installed here, and what can't be done without the rest."""

from __future__ import annotations

import importlib.util
import shutil
from typing import Any

import dspy
import pytest

from snakepit_bridge.dspy_integration import compat as installed


def test_a_missing_extra_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "find_spec", lambda name: None)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert set(installed.missing()) == {"deno", "numpy", "optuna"}
    assert "pip install 'dspy[deno]'" in installed.missing()["deno"]


def test_a_deno_of_the_system_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installed, "find_spec", importlib.util.find_spec)
    monkeypatch.setattr(shutil, "which", lambda name: f"/usr/bin/{name}")
    assert "deno" not in installed.missing()


@pytest.mark.parametrize("kind", [installed.ReActV2, installed.RLM, installed.Flex, installed.KNN, installed.Parallel])
def test_they_are_classes(kind: Any) -> None:
    assert isinstance(kind, type)
    assert getattr(dspy, kind.__name__) is kind
