"""Signatures as data: read from text without importing, and rebuilt so that the prompt is the same to the byte."""

from __future__ import annotations

import datetime
import sys
from typing import Any, Literal, get_args

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.field_types import parse_type
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.signature_spec import FieldSpec, SignatureSpec
from tests.harness.signatures import make_signature
from tests.unit.programs.sample import Colour, Person

ALLOWED = AllowedImports(("tests.unit.programs.sample",))
ADAPTERS = [dspy.ChatAdapter(), dspy.JSONAdapter(), dspy.XMLAdapter()]


class Rich(dspy.Signature):
    """Describe the person.

    In two paragraphs.
    """

    person: Person = dspy.InputField(desc="who it is about")
    history: dspy.History = dspy.InputField()
    photo: dspy.Image | None = dspy.InputField(default=None)
    since: datetime.date = dspy.InputField(default=datetime.date(2024, 2, 29))
    favourite: Colour = dspy.InputField(default=Colour.RED)
    words: list[str] = dspy.InputField(default_factory=lambda: ["one"])
    mood: Literal["glad", "cross"] = dspy.OutputField()
    score: float = dspy.OutputField(ge=0, le=1, desc="how sure")
    tags: list[str] = dspy.OutputField(min_length=1, max_length=3)
    friend: Person | None = dspy.OutputField()


SIGNATURES = [
    make_signature("question -> answer"),
    make_signature("question, context: list[str] -> answer: float, label: Literal['sure', 'unsure']"),
    make_signature("text: str -> summary: str", "Be brief."),
    make_signature("n: int | None, when: Optional[bool] -> items: dict[str, list[int]]"),
    Rich,
]


def again(signature: Any) -> Any:
    """The signature after a trip through JSON."""
    sent = SignatureSpec.of(signature, program="qa").model_dump_json()
    return SignatureSpec.model_validate_json(sent).build(ALLOWED, program="qa")


def prompt(signature: Any, adapter: Any) -> Any:
    inputs = {"person": Person(name="Ada"), "history": dspy.History(messages=[]), "words": ["a"]}
    given = {name: inputs.get(name, "text") for name in signature.input_fields if name != "photo"}
    return adapter.format(signature, [], given)


@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: type(adapter).__name__)
@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda signature: signature.__name__)
def test_the_prompt_is_the_same_to_the_byte(signature: Any, adapter: Any) -> None:
    assert prompt(again(signature), adapter) == prompt(signature, adapter)


@pytest.mark.parametrize("signature", SIGNATURES, ids=lambda signature: signature.__name__)
def test_a_second_trip_changes_nothing(signature: Any) -> None:
    once = again(signature)

    assert SignatureSpec.of(once, program="qa") == SignatureSpec.of(signature, program="qa")


def test_defaults_come_back_in_their_types() -> None:
    fields = again(Rich).input_fields

    assert fields["since"].default == datetime.date(2024, 2, 29)
    assert fields["favourite"].default is Colour.RED
    assert fields["words"].default == ["one"]
    assert fields["photo"].default is None
    assert fields["person"].is_required()


def test_limits_come_back_as_limits_and_as_words() -> None:
    score = again(Rich).output_fields["score"]

    assert score.metadata == Rich.output_fields["score"].metadata
    assert score.json_schema_extra["constraints"] == "greater than or equal to: 0, less than or equal to: 1"


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ("question -> answer", [("question", "input", "str", False), ("answer", "output", "str", True)]),
        (
            "q: list[str], k:int->a : dict[str, int]",
            [("q", "input", "list[str]", True), ("k", "input", "int", True), ("a", "output", "dict[str, int]", True)],
        ),
        (
            "x -> y: Literal['a, b', \"c: d\"]",
            [("x", "input", "str", False), ("y", "output", "Literal['a, b', \"c: d\"]", True)],
        ),
    ],
)
def test_text_is_read_field_by_field(text: str, fields: list[tuple[Any, ...]]) -> None:
    read = SignatureSpec.parse(text, program="qa")

    assert [(f.name, f.direction, f.type, f.typed) for f in read.fields] == fields


@pytest.mark.parametrize(
    "text",
    ["question -> answer", "-> answer", "a, b: int -> c: list[str]", "text -> label: Literal['x', 'y'], score: float"],
)
def test_text_gives_what_dspy_makes_of_it(text: str) -> None:
    ours, theirs = SignatureSpec.parse(text, program="qa").build(ALLOWED, program="qa"), make_signature(text)

    assert prompt(ours, ADAPTERS[0]) == prompt(theirs, ADAPTERS[0])
    assert SignatureSpec.of(ours, program="qa") == SignatureSpec.of(theirs, program="qa")


@pytest.mark.parametrize(
    "text",
    [
        "", "->", "question", "question ->", "a -> b -> c", "a b -> c", "1a -> b", "a.b -> c", "a: -> b",
        "a[0] -> b", "a=1 -> b", "question -> answer: os.system('true')", "x: antigravity.x -> y",
        "x: __import__('os') -> y", "a -> b" + ", c" * 20_000,
        f"{'n' * 150} -> y",
    ],
)  # fmt: skip
def test_text_that_is_no_signature_is_refused(text: str) -> None:
    sys.modules.pop("antigravity", None)

    with pytest.raises(ProgramSpecError) as refused:
        SignatureSpec.parse(text, program="qa").build(ALLOWED, program="qa")

    assert refused.value.program == "qa"
    assert refused.value.where.startswith("signature")
    assert "antigravity" not in sys.modules


RESERVED = [
    "fields", "signature", "instructions", "model_config", "input_fields", "output_fields", "model_dump", "_hidden",
    "__class__", "__init__", "a b", "1st", "", "a.b",
]  # fmt: skip
# DSPy's calls take these beside the inputs; an output can have them.
AS_INPUTS = ["self", "config", "lm", "demos", "new_signature", "completions", "instance"]


@pytest.mark.parametrize(
    ("name", "direction"),
    [*((name, kind) for name in RESERVED for kind in ("input", "output")), *((name, "input") for name in AS_INPUTS)],
)
def test_a_reserved_field_name_is_refused(name: str, direction: Literal["input", "output"]) -> None:
    other = FieldSpec(name="other", direction="output" if direction == "input" else "input")
    spec = SignatureSpec(fields=(FieldSpec(name=name, direction=direction), other))

    with pytest.raises(ProgramSpecError, match="a field can't be named"):
        spec.build(ALLOWED, program="qa")


@pytest.mark.parametrize("name", ["copy", "schema", "json", "items", "keys", "class", "type", "name", "id"])
@pytest.mark.filterwarnings("ignore:Field name")
def test_a_name_that_only_looks_reserved_is_taken(name: str) -> None:
    built = SignatureSpec.parse(f"{name} -> answer", program="qa").build(ALLOWED, program="qa")

    assert list(built.input_fields) == [name]


def test_two_fields_of_one_name_are_refused() -> None:
    with pytest.raises(ProgramSpecError, match="two fields have this name"):
        SignatureSpec.parse("a -> a", program="qa").build(ALLOWED, program="qa")


def test_a_default_of_another_type_is_refused() -> None:
    spec = SignatureSpec(
        fields=(
            FieldSpec(name="n", direction="input", type="int", has_default=True, default="many"),
            FieldSpec(name="answer", direction="output"),
        )
    )

    with pytest.raises(ProgramSpecError, match="valid integer") as refused:
        spec.build(ALLOWED, program="qa")

    assert refused.value.where == "signature.n.default"


def test_a_default_without_a_json_form_is_refused() -> None:
    signature = make_signature(
        {"x": (Any, dspy.InputField(default=object())), "answer": (str, dspy.OutputField())}, "Answer."
    )

    with pytest.raises(ProgramSpecError, match="no JSON form") as refused:
        SignatureSpec.of(signature, program="qa")

    assert refused.value.where == "signature.x.default"


def test_what_dspy_cannot_build_is_a_refusal() -> None:
    fields = (FieldSpec(name="q", direction="input"), FieldSpec(name="a", direction="output", type="int"))
    spec = SignatureSpec(fields=fields, instructions="Answer.", name="Odd\x00name")

    with pytest.raises(ProgramSpecError, match="DSPy can't build it"):
        spec.build(ALLOWED, program="qa")


LITERALS = [
    r"question -> answer: Literal['it\'s ok','no'], other: int",
    'question -> answer: Literal["a, b", "c: d", "[e", "f]"]',
    "q: Literal['a,b', \"it's\"], r -> s: dict[str, list[Optional[int]]], t: Union[int, str, None]",
    "q: tuple[int, ...], r: set[Literal[1, True]] -> s: list[dict[str, tuple[int, str]]] | None",
    "q: list[str], r: dict[str, list[int]], s: Optional[str] -> t: None | int",
    "q:dspy.Image,r : list[ dspy.Audio ] -> s: Literal['{', '}', '(', '\\\\']",
]


@pytest.mark.parametrize("text", LITERALS)
def test_a_text_means_what_it_means_to_dspy(text: str) -> None:
    """Quotes, commas and brackets inside literals, nested types, unions."""
    local, built = make_signature(text), SignatureSpec.parse(text, program="qa").build(ALLOWED, program="qa")
    assert {name: info.annotation for name, info in built.fields.items()} == {
        name: info.annotation for name, info in local.fields.items()
    }
    again = SignatureSpec.of(built, program="qa").build(ALLOWED, program="qa")
    for adapter in ADAPTERS:
        assert adapter.format_field_structure(again) == adapter.format_field_structure(local)


@pytest.mark.parametrize(
    "spelling", ["{} | {} | None", "None | ({} | {})", "Optional[Union[{}, {}]]", "Union[Optional[{}], {}]"]
)
def test_a_union_keeps_its_order_whichever_program_was_read_before(spelling: str) -> None:
    """``typing`` answers with a cached union of equal members, whose order is another program's."""
    for first, second in (("int", "str"), ("str", "int")):
        kind = parse_type(spelling.format(first, second), ALLOWED, program="qa", where="signature.q")
        arguments = [argument.__name__ for argument in get_args(kind) if argument is not type(None)]
        assert arguments == [first, second]


WORDS = st.text(max_size=6).filter(lambda text: "->" not in text)
TYPES = st.recursive(
    st.sampled_from(["int", "str", "float", "bool"])
    | st.lists(WORDS, min_size=1, max_size=3).map(lambda values: f"Literal{values!r}"),
    lambda inner: (
        inner.map("list[{}]".format)
        | inner.map("Optional[{}]".format)
        | st.tuples(inner, inner).map(lambda pair: f"dict[str, {pair[0]}] | {pair[1]}")
        | st.tuples(inner, inner).map(lambda pair: f"tuple[{pair[0]}, {pair[1]}]")
    ),
    max_leaves=4,
)


@given(st.lists(TYPES, min_size=2, max_size=4))
@settings(deadline=None, max_examples=60)
def test_any_types_of_a_text_are_those_of_dspy(kinds: list[str]) -> None:
    text = f"{', '.join(f'f{at}: {kind}' for at, kind in enumerate(kinds[:-1]))} -> out: {kinds[-1]}"
    local, built = make_signature(text), SignatureSpec.parse(text, program="qa").build(ALLOWED, program="qa")
    assert {name: info.annotation for name, info in built.fields.items()} == {
        name: info.annotation for name, info in local.fields.items()
    }


def test_a_default_stands_behind_its_type() -> None:
    built = SignatureSpec.parse("q, n: int = 3, w: list[str] = ['a', 'b,c'] -> a", program="qa").build(
        ALLOWED, program="qa"
    )
    assert [built.fields[name].is_required() for name in ("q", "n", "w")] == [True, False, False]
    assert (built.fields["n"].default, built.fields["w"].default) == (3, ["a", "b,c"])
    with pytest.raises(ProgramSpecError, match="its default isn't a plain value"):
        SignatureSpec.parse("n: int = open('x') -> a", program="qa")
