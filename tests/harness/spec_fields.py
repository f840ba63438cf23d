"""Signatures that are right by construction, and inputs in the types of their fields."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.harness.value_types import Ticket

TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(["[[ ## answer ## ]]", "{question}", "\x00", "x" * 5_000, ""]),
)
KEYS = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 10**20) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS | TEXTS, inner, max_size=3),
    max_leaves=5,
)
"""Any JSON."""

_PIXEL = "data:image/png;base64,iVBORw0KGgo="


@dataclass(frozen=True)
class FieldType:
    """A type of a field, and JSON values that are of it."""

    text: str
    values: st.SearchStrategy[Any]
    is_hashable: bool = True


_FLOATS = st.floats(-1e9, 1e9)
_OF_A_TEXT = [
    FieldType("str", TEXTS),
    FieldType("int", st.integers(-(2**70), 2**70)),
    FieldType("float", _FLOATS),
    FieldType("bool", st.booleans()),
    FieldType("bytes", st.text("abc", max_size=5)),
    FieldType("None", st.none()),
    FieldType("NoneType", st.none()),
    FieldType("date", st.dates().map(str)),
    FieldType("datetime", st.datetimes().map(lambda at: at.isoformat())),
    FieldType("time", st.times().map(lambda at: at.isoformat())),
    FieldType("timedelta", st.integers(0, 10**6).map("PT{}S".format)),
    FieldType("datetime.date", st.dates().map(str)),
    FieldType("Decimal", st.integers(-99, 99).map("{}.50".format)),
    FieldType("UUID", st.uuids().map(str)),
    FieldType("complex", st.integers(0, 9).map("{}+2j".format)),
    FieldType("Literal['a', 'b']", st.sampled_from("ab")),
    FieldType("Literal[1, None, True]", st.sampled_from([1, None])),
]
_LARGER = [
    FieldType("Any", VALUES),
    FieldType("object", VALUES),
    FieldType("list", st.lists(VALUES, max_size=2)),
    FieldType("dict", st.dictionaries(KEYS, VALUES, max_size=2)),
    FieldType("set", st.lists(TEXTS, max_size=2)),
    FieldType("frozenset", st.lists(TEXTS, max_size=2)),
    FieldType("tuple", st.lists(VALUES, max_size=2)),
    FieldType("tuple[()]", st.just([])),
    FieldType("tuple[int, ...]", st.lists(st.integers(0, 9), max_size=3)),
    FieldType("dspy.Image", st.just({"url": _PIXEL})),
    FieldType("dspy.Audio", st.just({"data": "AAAA", "audio_format": "wav"})),
    FieldType("dspy.File", st.just({"file_data": "data:text/plain;base64,aGk=", "filename": "a.txt"})),
    FieldType(
        "dspy.History", st.lists(st.dictionaries(KEYS, TEXTS, max_size=2), max_size=2).map(lambda m: {"messages": m})
    ),
    FieldType("dspy.Code", TEXTS.map(lambda code: {"code": code})),
    FieldType("dspy.Code['sql']", TEXTS.map(lambda code: {"code": code})),
    FieldType("dspy.ToolCalls", st.just({"tool_calls": [{"name": "reward", "args": {"a": 1}}]})),
    FieldType("dspy.Reasoning", st.just({"content": "since"})),
    FieldType("dspy.experimental.Document", st.just({"data": "a text", "title": "a title"})),
    FieldType(f"{Ticket.__module__}.{Ticket.__name__}", TEXTS.map(lambda title: {"title": title, "colour": "blue"})),
]
_ATOMS = [*_OF_A_TEXT, *(FieldType(each.text, each.values, is_hashable=False) for each in _LARGER)]


def _optional(inner: FieldType, how: str) -> FieldType:
    return FieldType(how.format(inner.text), st.none() | inner.values, inner.is_hashable)


def _union(first: FieldType, other: FieldType, how: str) -> FieldType:
    return FieldType(
        how.format(first.text, other.text), first.values | other.values, first.is_hashable and other.is_hashable
    )


def _pair(first: FieldType, other: FieldType) -> FieldType:
    values = st.tuples(first.values, other.values).map(list)
    return FieldType(f"tuple[{first.text}, {other.text}]", values, first.is_hashable and other.is_hashable)


def _set(inner: FieldType) -> FieldType:
    return FieldType(f"set[{inner.text}]", st.lists(inner.values, max_size=2), is_hashable=False)


def _composed(inner: st.SearchStrategy[FieldType]) -> st.SearchStrategy[FieldType]:
    return st.one_of(
        inner.map(lambda of: FieldType(f"list[{of.text}]", st.lists(of.values, max_size=3), is_hashable=False)),
        inner.map(
            lambda of: FieldType(
                f"dict[str, {of.text}]", st.dictionaries(KEYS, of.values, max_size=2), is_hashable=False
            )
        ),
        st.builds(_optional, inner, st.sampled_from(["{} | None", "Optional[{}]", "typing.Optional[{}]"])),
        st.builds(_union, inner, inner, st.sampled_from(["{} | {}", "Union[{}, {}]"])),
        st.builds(_pair, inner, inner),
        inner.filter(lambda of: of.is_hashable).map(_set),
    )


FIELD_TYPES = st.recursive(st.sampled_from(_ATOMS), _composed, max_leaves=3)

# Odd, but no module of DSPy's means anything by them.
_ODD_NAMES = [
    "items",
    "keys",
    "copy",
    "class",
    "json",
    "provenance",
    "question",
    "context",
    "ünï",
    "x" * 100,
    "Q1",
    "schema",
]
FIELD_NAMES = st.one_of(st.from_regex(r"[a-z]{2}_[a-z0-9]{1,6}", fullmatch=True), st.sampled_from(_ODD_NAMES))

# A limit with the type that it fits, and values within it.
_LIMITED: list[tuple[FieldType, dict[str, Any]]] = [
    (FieldType("int", st.integers(1, 5)), {"ge": 1, "le": 5}),
    (FieldType("int", st.integers(1, 5).map(lambda number: number * 3)), {"gt": 0, "multiple_of": 3}),
    (FieldType("float", st.floats(0.5, 0.75)), {"gt": 0, "lt": 1, "allow_inf_nan": False}),
    (FieldType("str", st.text("abc", min_size=1, max_size=5)), {"min_length": 1, "max_length": 5}),
    (FieldType("list[int]", st.lists(st.integers(0, 9), min_size=1, max_size=2)), {"min_length": 1, "max_length": 2}),
]


@st.composite
def _fields(draw: st.DrawFn, direction: str, names: list[str]) -> list[tuple[dict[str, Any], FieldType]]:
    fields: list[tuple[dict[str, Any], FieldType]] = []
    for name in names:
        kind, limits = draw(FIELD_TYPES), {}
        if draw(st.integers(0, 4)) == 4:
            kind, limits = draw(st.sampled_from(_LIMITED))
        field: dict[str, Any] = {"name": name, "direction": direction, "type": kind.text}
        if limits:
            field |= {"limits": limits, "constraints": "as it is limited"}
        if draw(st.booleans()):
            field |= draw(st.fixed_dictionaries({}, optional={"desc": TEXTS, "prefix": TEXTS, "typed": st.booleans()}))
        if draw(st.integers(0, 5)) == 5:
            field |= {"has_default": True, "default": draw(kind.values)}
        fields.append((field, kind))
    return fields


@dataclass(frozen=True)
class Signed:
    """A signature's spec, and what can be asked of it."""

    spec: Any
    inputs: st.SearchStrategy[dict[str, Any]]
    counts: tuple[int, int]
    last_output: str


_SHORT: list[tuple[str, dict[str, st.SearchStrategy[Any]], tuple[int, int], str]] = [
    ("question -> answer", {"question": VALUES}, (1, 1), "answer"),
    (
        "question: str, context: list[str] -> answer: str, label: Literal['sure', 'unsure']",
        {"question": TEXTS, "context": st.lists(TEXTS, max_size=2)},
        (2, 2),
        "label",
    ),
    (
        "a: int = 3, b: dict[str, float] -> c: float",
        {"a": st.integers(), "b": st.dictionaries(KEYS, _FLOATS, max_size=2)},
        (2, 1),
        "c",
    ),
]


@st.composite
def signatures(draw: st.DrawFn) -> Signed:
    """Draw a signature that every module of DSPy's takes."""
    if draw(st.integers(0, 3)) == 3:
        text, values, counts, last = draw(st.sampled_from(_SHORT))
        return Signed(text, st.fixed_dictionaries(values), counts, last)
    names = draw(st.lists(FIELD_NAMES, min_size=2, max_size=5, unique_by=str.casefold))
    cut = draw(st.integers(1, len(names) - 1))
    inputs, outputs = draw(_fields("input", names[:cut])), draw(_fields("output", names[cut:]))
    spec = {"fields": [field for field, _ in (*inputs, *outputs)]}
    spec |= draw(st.fixed_dictionaries({}, optional={"instructions": TEXTS, "name": st.just("Task")}))
    given = st.fixed_dictionaries({field["name"]: kind.values for field, kind in inputs})
    return Signed(spec, given, (cut, len(names) - cut), names[-1])
