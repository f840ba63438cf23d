"""Import paths in a spec: what an operator allowed is found, everything else is refused before it is imported."""

from __future__ import annotations

import sys

import pytest

from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.imports import AllowedImports, import_path
from tests.unit.programs import sample

HERE = "tests.unit.programs.sample"
ALLOWED = AllowedImports((HERE,))


def load(path: str, allowed: AllowedImports = ALLOWED) -> object:
    return allowed.load(path, program="qa", where="tools")


@pytest.mark.parametrize(
    ("path", "found"),
    [
        (f"{HERE}:lookup", sample.lookup),
        (f"{HERE}.lookup", sample.lookup),
        (f"{HERE}:Person", sample.Person),
        (f"{HERE}:Person.Pet", sample.Person.Pet),
        (f"{HERE}.Person.Pet", sample.Person.Pet),
    ],
)
def test_what_is_defined_in_an_allowed_package_is_found(path: str, found: object) -> None:
    assert load(path) is found


def test_an_allowed_package_allows_what_lies_below_it() -> None:
    assert load(f"{HERE}:lookup", AllowedImports(("tests.unit",))) is sample.lookup


def test_a_package_does_not_allow_one_whose_name_begins_alike() -> None:
    with pytest.raises(ProgramSpecError, match="isn't in an allowed package"):
        load(f"{HERE}:lookup", AllowedImports(("tests.unit.pro",)))


def test_nothing_is_allowed_by_default() -> None:
    with pytest.raises(ProgramSpecError, match=r"\(none\); allow it in the settings"):
        load(f"{HERE}:lookup", AllowedImports())


@pytest.mark.parametrize(
    "path",
    ["os:system", "subprocess:Popen", "builtins:eval", "importlib:import_module", f"{HERE}_evil:run", "tests:anything"],
)
def test_a_module_outside_is_refused(path: str) -> None:
    with pytest.raises(ProgramSpecError, match="isn't in an allowed package"):
        load(path)


def test_a_module_outside_is_refused_without_being_imported() -> None:
    sys.modules.pop("antigravity", None)

    with pytest.raises(ProgramSpecError):
        load("antigravity:anything")

    assert "antigravity" not in sys.modules


@pytest.mark.parametrize(
    "path",
    [
        f"{HERE}:os",
        f"{HERE}:os.system",
        f"{HERE}:dspy.Predict",
        f"{HERE}:Any",
        f"{HERE}:PATH",
        f"{HERE}:VALUE",
        f"{HERE}:pydantic.BaseModel",
    ],
)
def test_what_an_allowed_module_merely_imports_is_refused(path: str) -> None:
    with pytest.raises(ProgramSpecError, match="only imported there"):
        load(path)


@pytest.mark.parametrize(
    "path",
    [
        f"{HERE}:lookup.__globals__",
        f"{HERE}:__builtins__.eval",
        f"{HERE}:Person.__init__.__globals__",
        f"{HERE}:_private",
        f"{HERE}:",
        ":lookup",
        "",
        "lookup",
        "..sample:lookup",
        f"{HERE}:lookup()",
        f"{HERE}:lookup;import os",
        f"{HERE}:lookup[0]",
        f"{HERE}::lookup",
        f"{HERE}/x:lookup",
        f"{HERE}:{'a' * 400}",
        f"{HERE}:look\x00up",
    ],
)
def test_a_path_that_is_none_is_refused(path: str) -> None:
    with pytest.raises(ProgramSpecError, match="isn't an import path"):
        load(path)


@pytest.mark.parametrize("path", [f"{HERE}:nothing", f"{HERE}.missing:nothing", f"{HERE}:Person.missing"])
def test_a_missing_object_is_named(path: str) -> None:
    with pytest.raises(ProgramSpecError, match="can't be imported here") as refused:
        load(path)

    assert (refused.value.program, refused.value.where) == ("qa", "tools")


def test_an_allowed_module_that_fails_at_its_import_is_a_refusal_that_says_why() -> None:
    with pytest.raises(ProgramSpecError, match="RuntimeError: this module is broken"):
        load("tests.unit.programs.broken_at_import:anything", AllowedImports(("tests.unit.programs",)))


@pytest.mark.parametrize("thing", [sample.lookup, sample.Person, sample.Person.Pet, sample.Summarize])
def test_an_import_path_leads_back_to_the_thing(thing: object) -> None:
    assert load(import_path(thing)) is thing


def test_what_a_module_raises_when_a_name_is_looked_up_is_an_error_by_its_path(monkeypatch: pytest.MonkeyPatch) -> None:
    def load_lazily(name: str) -> object:
        raise ImportError(f"{name} needs the package heavy")

    monkeypatch.setattr(sample, "__getattr__", load_lazily, raising=False)
    with pytest.raises(ProgramSpecError, match=r"sample:Heavy' can't be imported here: ImportError: .*package heavy"):
        load(f"{HERE}:Heavy")


def test_an_object_that_fails_when_it_is_looked_at_is_a_refusal_that_says_why() -> None:
    with pytest.raises(ProgramSpecError, match="can't be imported here: RuntimeError: not connected yet"):
        load(f"{HERE}:LAZY")


def test_an_object_whose_module_is_no_name_is_refused() -> None:
    with pytest.raises(ProgramSpecError, match="only imported there"):
        load(f"{HERE}:NAMELESS")
