"""What comes of a field in pieces is what the adapter's own parser makes of the whole answer, however cut."""

from __future__ import annotations

from collections import defaultdict
from typing import Any, cast

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.output_fields import ChatFields, FieldReader, JSONFields, XMLFields

SIGNATURE = cast(Any, dspy.Signature)("question -> reasoning: str, answer: str")
NAMES = ("reasoning", "answer")

# What looks like a form's own marks is what a careless reader loses.
MARKS = [
    "[[",
    "]]",
    "[[ ##",
    "[[ ## x",
    "## ]]",
    "[",
    '"',
    "\\",
    "\n",
    "\r\n",
    "{",
    "}",
    "<",
    "&",
    "</answ",
    " ",
    "é",
    "😀",
    "[0]",
]
TEXTS = st.lists(st.sampled_from([*MARKS, "word", "two words", "7"]), max_size=12).map("".join)
CUTS = st.lists(st.integers(min_value=1, max_value=9), min_size=1, max_size=30)


def cut(text: str, sizes: list[int]) -> list[str]:
    pieces, place, turn = [], 0, 0
    while place < len(text):
        size = sizes[turn % len(sizes)]
        pieces.append(text[place : place + size])
        place, turn = place + size, turn + 1
    return pieces


def read(reader: FieldReader, pieces: list[str]) -> dict[str, str]:
    texts: defaultdict[str, str] = defaultdict(str)
    for piece in pieces:
        for name, text in reader.feed(piece):
            texts[name] += text
    for name, text in reader.end():
        texts[name] += text
    return dict(texts)


@settings(max_examples=120, deadline=None)
@given(TEXTS, TEXTS, CUTS, st.booleans())
def test_the_pieces_of_a_chat_answer_are_what_the_adapter_parses(
    reasoning: str, answer: str, sizes: list[int], closed: bool
) -> None:
    end = "\n\n[[ ## completed ## ]]\n" if closed else ""
    whole = f"[[ ## reasoning ## ]]\n{reasoning}\n\n[[ ## answer ## ]]\n{answer}{end}"
    parsed = {name: text for name, text in dspy.ChatAdapter().parse(SIGNATURE, whole).items() if text}
    assert read(ChatFields(NAMES), cut(whole, sizes)) == parsed


@settings(max_examples=120, deadline=None)
@given(TEXTS, TEXTS, CUTS, st.booleans())
def test_the_pieces_of_a_json_answer_are_what_the_adapter_parses(
    reasoning: str, answer: str, sizes: list[int], ascii_only: bool
) -> None:
    import json

    whole = json.dumps(
        {"reasoning": reasoning, "other": {"answer": "not this"}, "answer": answer}, ensure_ascii=ascii_only
    )
    fields = read(JSONFields(NAMES), cut(whole, sizes))
    joined = {name: text.encode("utf-16", "surrogatepass").decode("utf-16") for name, text in fields.items()}
    assert joined == {name: text for name, text in (("reasoning", reasoning), ("answer", answer)) if text}


@settings(max_examples=80, deadline=None)
@given(TEXTS, TEXTS, CUTS)
def test_the_pieces_of_an_xml_answer_are_what_the_adapter_parses(reasoning: str, answer: str, sizes: list[int]) -> None:
    from xml.sax.saxutils import escape

    whole = f"<reasoning>{escape(reasoning)}</reasoning>\n<answer>\n{escape(answer)}\n</answer>"
    fields = read(XMLFields(NAMES), cut(whole, sizes))
    expected = {"reasoning": reasoning.strip(), "answer": answer.strip()}
    assert fields == {name: text for name, text in expected.items() if text}


@pytest.mark.parametrize("reader", [ChatFields, JSONFields, XMLFields])
@given(st.lists(st.text(max_size=20), max_size=10))
def test_no_answer_makes_a_reader_fail(reader: type[Any], pieces: list[str]) -> None:
    read(reader(NAMES), pieces)


def test_what_is_certain_comes_at_once() -> None:
    reader = ChatFields(("answer",))
    fields = [
        text
        for piece in ("[[ ## answer ## ]]\nfirst", " second", "\nthird [[ no", " header ]]")
        for _, text in reader.feed(piece)
    ]
    assert fields == ["first", " second", "\nthird [[ no", " header ]]"]


def test_a_field_that_comes_again_is_not_read_again() -> None:
    whole = "[[ ## answer ## ]]\none\n[[ ## reasoning ## ]]\ntwo\n[[ ## answer ## ]]\nthree\n"
    assert read(ChatFields(NAMES), [whole]) == {"answer": "one", "reasoning": "two"}
