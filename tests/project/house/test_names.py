"""The rules for names and imports: one class per public name, errors end in Error, no banned word, no import circle."""

from __future__ import annotations

import ast
import builtins
import re
from collections import defaultdict
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from symtable import SymbolTable, symtable

import pytest

from tests.project.house.product import ROOT, modules

# Raised to leave a call early, not because anything is wrong.
CONTROL_FLOW = frozenset({"SoftLimitReached", "UnstreamedReply", "_Failed"})

# A variable is named after the thing that it holds.
BANNED_LOCALS = frozenset({"asked", "away", "drawn", "made", "one", "said", "some", "taken", "told", "two", "unfit"})
FOLDERS = ("benchmarks", "config", "examples", "proto", "snakepit_bridge", "tasks", "tests", "workers")


def classes() -> Iterator[tuple[str, ast.ClassDef]]:
    """Iterate over every class of the product, with the module that defines it."""
    for module, (_, tree) in modules().items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                yield module, node


def base_names(node: ast.ClassDef) -> list[str]:
    """Return the last component of each base: ``Generic`` for ``typing.Generic[int]``."""
    return [ast.unparse(base).partition("[")[0].rpartition(".")[2] for base in node.bases]


def test_no_public_class_name_occurs_twice() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for module, node in classes():
        if not node.name.startswith("_"):
            homes[node.name].append(module)
    twice = {name: found for name, found in homes.items() if len(found) > 1}
    assert twice == {}


def test_every_exception_class_ends_in_error() -> None:
    bases = {node.name: base_names(node) for _, node in classes()}
    built_in = {name for name, value in vars(builtins).items() if _is_exception(value)}

    def raises(name: str) -> bool:
        if name in bases and name not in bases[name]:
            return any(raises(base) for base in bases[name])
        return name in built_in or name.endswith(("Error", "Exception", "Exceeded"))

    misnamed = {name for name in bases if raises(name) and not name.endswith("Error")}
    assert misnamed - CONTROL_FLOW == set()


def _is_exception(value: object) -> bool:
    return isinstance(value, type) and issubclass(value, BaseException)


def banned_words() -> list[str]:
    lines = Path(__file__).with_name("banned_words.txt").read_text(encoding="utf-8").splitlines()
    return [line.partition("#")[0].strip() for line in lines if line.partition("#")[0].strip()]


def words_of(name: str) -> set[str]:
    """Return the lower-case words of an identifier: ``{"read", "http", "door"}`` for ``_readHTTPDoor``."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def top_level_names(tree: ast.Module) -> Iterator[str]:
    """Iterate over the names of the classes, functions and variables that a module defines at its top level."""
    for node in tree.body:
        match node:
            case ast.ClassDef(name=name) | ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Assign(targets=targets):
                yield from (target.id for target in targets if isinstance(target, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)):
                yield name
            case _:
                pass


def test_an_identifier_is_split_into_its_words() -> None:
    assert words_of("_readHTTPDoor") == {"read", "http", "door"}
    assert words_of("MAX_EYES_2") == {"max", "eyes"}


def test_no_module_and_no_top_level_name_has_a_banned_word() -> None:
    banned = set(banned_words())
    guilty: list[str] = []
    for module, (_, tree) in modules().items():
        for name in (module.rpartition(".")[2], *top_level_names(tree)):
            guilty += [f"{module}: {name} ({word})" for word in words_of(name) & banned]
    assert guilty == []


def names_in(scope: SymbolTable) -> Iterator[str]:
    """Iterate over the names of all functions, parameters and variables, those inside functions included."""
    yield from (symbol.get_name() for symbol in scope.get_symbols() if symbol.is_assigned() or symbol.is_parameter())
    for inner in scope.get_children():
        yield from names_in(inner)


@pytest.mark.parametrize("folder", FOLDERS)
def test_no_name_is_a_word_that_says_nothing_of_the_thing(folder: str) -> None:
    guilty = [
        f"{path.relative_to(ROOT)}: {name}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for name in names_in(symtable(path.read_text(encoding="utf-8"), str(path), "exec"))
        if name.strip("_") in BANNED_LOCALS
    ]
    assert guilty == []


def test_the_banned_words_are_a_sorted_list_without_duplicates() -> None:
    words = banned_words()
    assert words == sorted(set(words))


def imports_of(module: str) -> set[str]:
    """Return the product's modules that a module imports, under ``TYPE_CHECKING`` and inside functions as well."""
    known = modules()
    imported: set[str] = set()
    for node in ast.walk(known[module][1]):
        if isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            submodules = {f"{node.module}.{alias.name}" for alias in node.names}
            imported |= submodules & known.keys()
            if any(f"{node.module}.{alias.name}" not in known for alias in node.names):
                imported.add(node.module)
    return imported & known.keys() - {module}


def private_parts_of_dspy(tree: ast.Module) -> set[str]:
    """Return what a module imports of DSPy's private packages and modules."""
    sources = (node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom))
    imported = (alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names)
    return {name for name in (*sources, *imported) if re.match(r"dspy\..*\b_", name)}


def test_private_parts_of_dspy_stand_in_the_modules_of_compatibility() -> None:
    users = {module for module, (_, tree) in modules().items() if private_parts_of_dspy(tree)}
    assert users == {"snakepit_bridge.lm.compat"}


def test_no_import_circle() -> None:
    graph = {module: imports_of(module) for module in modules()}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as exc:
        pytest.fail(f"Import circle: {' -> '.join(reversed(exc.args[1]))}")
