"""The rules for whole files: none is too long to tell one story, and every test in them can fail."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Set

from tests.project.house.product import ROOT, modules, parse

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


def functions(parent: ast.AST) -> Iterator[Function]:
    """Iterate over the functions below a node, those of classes and inside others included."""
    for node in ast.iter_child_nodes(parent):
        if isinstance(node, Function):
            yield node
        if isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):
            yield from functions(node)


def name_of(node: ast.AST) -> str | None:
    """Return the name that a node uses or gives to an argument, ``assert`` for a statement that can fail a test."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.arg(arg=name):
            return "assert" if name.startswith("assert_") or name in ASSERTING else name
        case ast.Assert() | ast.Raise():
            return "assert"
        case _:
            return None


def asserts(function: Function, asserting: Set[str] = frozenset({"assert"})) -> bool:
    """Check whether a function uses one of these names."""
    return any(name_of(node) in asserting for node in ast.walk(function))


def test_every_test_can_fail_of_what_it_sees() -> None:
    """By an assertion of its own, or of a function of the tests that it uses."""
    trees = parse(sorted((ROOT / "tests").rglob("*.py"))).values()
    found = [function for tree in trees for function in functions(tree)]
    asserting = {each.name for each in found if not each.name.startswith("test_") and asserts(each)} | {"assert"}
    unable = {each.name for each in found if each.name.startswith("test_") and not asserts(each, asserting)}
    assert unable == RAISING_TESTS
