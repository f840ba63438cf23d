"""The generated API pages hold every public name, and nothing else than public names."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path

import pytest

PAGES = Path(__file__).parents[3] / "docs" / "reference" / "api"
PACKAGES = ("client", "dspy_integration", "snapshots", "testing", "variables")


def generated() -> set[str]:
    """Return the dotted names that the pages have documented."""
    return {name for page in PAGES.glob("*.md") for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)}


@pytest.mark.parametrize("package", PACKAGES)
def test_each_public_class_and_function_of_a_package_is_on_a_page(package: str) -> None:
    module, pages = importlib.import_module(f"snakepit_bridge.{package}"), generated()
    missing: list[str] = []
    for name in module.__all__:
        value = getattr(module, name)
        if not (inspect.isclass(value) or inspect.isfunction(value)):
            continue
        home = value.__module__
        if not pages & {home, f"{home}.{value.__qualname__}", f"snakepit_bridge.{package}.{name}"}:
            missing.append(f"{home}.{value.__qualname__}")
    assert not missing


@pytest.mark.parametrize("name", sorted(generated()))
def test_what_a_page_has_generated_exists_and_has_a_docstring(name: str) -> None:
    home, _, attribute = name.rpartition(".")
    try:
        value = importlib.import_module(name)
    except ModuleNotFoundError:
        value = getattr(importlib.import_module(home), attribute)
    assert inspect.getdoc(value)
