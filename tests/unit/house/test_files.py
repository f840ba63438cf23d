"""The rules for whole files: none is too long to tell one story, and every test in them can fail."""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.unit.house.product import ROOT, modules

MAX_LINES = 400
# All errors are one tree, which its docstring draws, under one import path.
LONGER_MODULES = frozenset({"snakepit_bridge.exceptions"})

# What fails a test without the word ``assert``.
ASSERTING = frozenset({"raises", "fail", "warns", "within", "wait_until", "eventually", "wait_for", "fnmatch_lines"})
# Runs a page's blocks by sybil, which raises where one prints something else.
RAISING_TESTS = frozenset({"test_every_block_runs_and_prints_what_the_page_shows"})

Function = ast.FunctionDef | ast.AsyncFunctionDef


def test_no_module_is_longer_than_one_story() -> None:
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, (path, _) in modules().items()}
    longer = {name: length for name, length in lengths.items() if length > MAX_LINES}
    assert longer.keys() == LONGER_MODULES, longer


def functions() -> Iterator[Function]:
    """Iterate over all functions below ``tests``, those of classes and inside others included."""
    for path in sorted((ROOT / "tests").rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        yield from (node for node in ast.walk(tree) if isinstance(node, Function))


def names_in(function: Function) -> set[str]:
    """Return the names that a function uses and is given, with ``assert`` for each statement that can fail it."""
    names: set[str] = set()
    for node in ast.walk(function):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
                names.add("assert" if name.startswith("assert_") or name in ASSERTING else name)
            case ast.Assert() | ast.Raise():
                names.add("assert")
            case _:
                pass
    return names


def test_every_test_can_fail_of_what_it_sees() -> None:
    """By an assertion of its own, or of a function of the tests that it uses."""
    used = [(function.name, names_in(function)) for function in functions()]
    asserting = {name for name, names in used if "assert" in names and not name.startswith("test_")} | {"assert"}
    unable = {name for name, names in used if name.startswith("test_") and not names & asserting}
    assert unable == RAISING_TESTS
