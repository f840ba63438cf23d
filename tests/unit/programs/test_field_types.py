"""Field types as text: each is read as the type it spells, and nothing is evaluated on the way."""

from __future__ import annotations

import datetime
import typing
from typing import Any, Literal, Optional, Union

import dspy
import pytest

from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.field_types import format_type, parse_type
from snakepit_bridge.programs.imports import AllowedImports
from tests.unit.programs import sample

HERE = "tests.unit.programs.sample"
ALLOWED = AllowedImports((HERE,))


def parse(text: str) -> Any:
    return parse_type(text, ALLOWED, program="qa", where="signature.answer")


def spell(kind: Any) -> str:
    return format_type(kind, program="qa", where="signature.answer")


KINDS: list[Any] = [
    str, int, float, bool, bytes, list, dict, set, tuple, frozenset, Any, type(None),
    datetime.date, datetime.datetime, datetime.time, datetime.timedelta,
    dspy.History, dspy.Image, dspy.Audio, dspy.Code, dspy.Tool, dspy.ToolCalls,
    list[str], dict[str, int], set[int], frozenset[str], tuple[int, str], tuple[int, ...],
    list[dict[str, list[float]]],
    Literal["a", "b"], Literal[1, 2], Literal[-1, 0], Literal["x", None], Literal[True, "it's"], Literal["a, b", "[c]"],
    int | None, Optional[str], Union[int, str], list[int | None] | None, list[Literal["a", "b"]],  # noqa: UP007, UP045
    sample.Colour, sample.Person, sample.Person.Pet, list[sample.Person], dict[str, sample.Colour],
    sample.Person | None, dspy.Image | None,
]  # fmt: skip


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_a_type_survives_being_spelt_and_read(kind: Any) -> None:
    assert parse(spell(kind)) == kind


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("List[str]", list[str]),
        ("Dict[str, int]", dict[str, int]),
        ("Set[int]", set[int]),
        ("Tuple[int, ...]", tuple[int, ...]),
        ("typing.List[str]", list[str]),
        ("Optional[int]", int | None),
        ("Union[int, None]", int | None),
        ("typing.Literal['a']", Literal["a"]),
        ("datetime.date", datetime.date),
        ("  list[ str ]  ", list[str]),
    ],
)
def test_other_spellings_mean_the_same(text: str, kind: Any) -> None:
    assert parse(text) == kind


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')", "os.system", "os", "eval", "lambda: int", "int()", "list[int()]", "x := int",
        "[int for _ in x]", "str if True else int", "f'{int}'", "'str'", "1", "...", "", "int; str", "int,",
        "list[__import__]", "Literal[open]", "Literal[f'{x}']", "Literal[b'x']", "Literal[1.5]", "int[str]",
        "list.__class__", "str.__subclasses__", "{}", "(str, int)", "not int", "int & str", "int - str", "await x",
        "subprocess.Popen", "list[str", "a" * 5_000, "str\x00", "Optional", "Callable[[int], str]",
    ],
)  # fmt: skip
def test_what_is_no_known_type_is_refused_with_the_field(text: str) -> None:
    with pytest.raises(ProgramSpecError) as refused:
        parse(text)

    assert (refused.value.program, refused.value.where) == ("qa", "signature.answer")


@pytest.mark.parametrize(
    "text", ["list[" * 60 + "int" + "]" * 60, "|".join(["int"] * 500), "(" * 900 + "int" + ")" * 900]
)
def test_deep_nesting_is_refused_and_not_followed(text: str) -> None:
    with pytest.raises(ProgramSpecError, match="nested too deeply|isn't a type"):
        parse(text)


@pytest.mark.parametrize("name", ["lookup", "VALUE", "os"])
def test_a_name_that_is_no_class_is_refused(name: str) -> None:
    with pytest.raises(ProgramSpecError):
        parse(f"{HERE}.{name}")


def test_a_local_class_cannot_be_spelt_since_no_other_process_could_import_it() -> None:
    class Local:
        pass

    with pytest.raises(ProgramSpecError, match="can't be imported by its name"):
        spell(Local)


def test_what_has_no_class_cannot_be_spelt() -> None:
    with pytest.raises(ProgramSpecError, match="can't be imported by its name"):
        spell(typing.Callable[[int], str])
