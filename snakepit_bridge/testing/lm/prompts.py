"""Reads a DSPy signature back out of the prompt that an adapter made of it.

A stand-in LM has to answer signatures that it was never told about. DSPy's ChatAdapter, JSONAdapter and XMLAdapter all
write the fields, their types and the instructions into the system prompt, and the input values into the last user
message; this module is the inverse of that, so that a test can look at a request and see the signature again.

Two prompts tell too little: the ChatAdapter doesn't name the members of an IntEnum, and the XMLAdapter shows no types
inside nested values.
"""

from __future__ import annotations

import ast
import json
import re
import textwrap
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, cast
from xml.etree import ElementTree

Style = Literal["chat", "json", "xml", "plain"]
Schema = Mapping[str, Any]

_OBJECTIVE = "In adhering to this structure, your objective is:"
_STRUCTURE = "All interactions will be structured in the following way"
_JSON_OUTPUTS = "Outputs will be a JSON object with the following fields."
_FIELD = re.compile(r"^\d+\. `(\w+)` \((.*?)\):", re.MULTILINE)
_NOTE = re.compile(r"^\{(\w+)\} {8}# note: the value you produce (.*)$", re.MULTILINE)
_NOTE_IN_JSON = re.compile(r"^\{\w+\} {8}# note: the value you produce (.*)$", re.DOTALL)
_XML_STRUCTURE = re.compile(r"^<(\w+)>.+</\1>$", re.MULTILINE)
_CONSTRAINTS = re.compile(r"^Constraints: (.*)$", re.MULTILINE)
_KEYWORDS = {
    "greater than": "exclusiveMinimum",
    "greater than or equal to": "minimum",
    "less than": "exclusiveMaximum",
    "less than or equal to": "maximum",
    "minimum length": "minLength",
    "maximum length": "maxLength",
    "a multiple of the given number": "multipleOf",
}


@dataclass(frozen=True, slots=True)
class OutputField:
    """A field that the prompt asks for; ``schema`` is the JSON schema of a value that DSPy will accept."""

    name: str
    annotation: str
    description: str
    schema: Schema


@dataclass(frozen=True, slots=True)
class PromptLayout:
    """What a system prompt says: the same for all requests of one signature under one adapter."""

    style: Style
    input_names: tuple[str, ...] = ()
    outputs: tuple[OutputField, ...] = ()
    instructions: str = ""


@dataclass(frozen=True, slots=True)
class AskedQuestion:
    """One question put to an answerer.

    Attributes:
        model: the model that the request names.
        layout: the signature, as far as the system prompt tells it.
        inputs: the input fields' texts, as the adapter wrote them.
        system: the system prompt.
        user: the last user message.
        body: the request's JSON body.
        choice: which of the ``n`` wanted answers this one is, from 0.
    """

    model: str
    layout: PromptLayout
    inputs: Mapping[str, str]
    system: str
    user: str
    body: Mapping[str, Any] = field(default_factory=dict[str, Any])
    choice: int = 0

    @property
    def instructions(self) -> str:
        """The signature's instructions, without the indentation that the adapter adds."""
        return self.layout.instructions

    @property
    def output_names(self) -> tuple[str, ...]:
        """The output fields that the prompt asks for, in order."""
        return tuple(output.name for output in self.layout.outputs)


def read_ask(body: Mapping[str, Any]) -> AskedQuestion:
    """Return what an OpenAI chat request asks; a prompt that no adapter wrote is ``plain`` and has no fields."""
    messages = cast(Sequence[Mapping[str, Any]], body.get("messages") or ())
    system = "\n".join(_text(m) for m in messages if m.get("role") in ("system", "developer"))
    user = next((_text(m) for m in reversed(messages) if m.get("role") == "user"), "")
    layout = read_layout(system)
    return AskedQuestion(str(body.get("model", "")), layout, read_inputs(layout, user), system, user, body)


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        parts = [cast(Mapping[str, Any], part) for part in cast("list[Any]", content) if isinstance(part, Mapping)]
        return "\n".join(str(part.get("text", "")) for part in parts if part.get("type") == "text")
    return str(content or "")


@lru_cache(maxsize=512)
def read_layout(system: str) -> PromptLayout:
    """Return the signature that a system prompt describes. Cached: a program sends the same one each time."""
    try:
        return _layout(system)
    except (ValueError, SyntaxError):
        # It only looks like an adapter's: the fields that it announces aren't written as an adapter writes them.
        return PromptLayout("plain")


def _layout(system: str) -> PromptLayout:
    head, found, objective = system.partition(_OBJECTIVE)
    fields, structured, structure = head.partition(_STRUCTURE)
    if not found or not structured:
        return PromptLayout("plain")
    inputs, _, outputs = fields.partition("Your output fields are:")
    style = _style(structure)
    notes = _notes(style, structure)
    return PromptLayout(
        style,
        tuple(match[1] for match in _FIELD.finditer(inputs)),
        tuple(_outputs(outputs, notes)),
        textwrap.dedent(objective.lstrip(" ")).strip(),
    )


def _style(structure: str) -> Style:
    if _JSON_OUTPUTS in structure:
        return "json"
    return "chat" if "[[ ## completed ## ]]" in structure else "xml"


def _notes(style: Style, structure: str) -> dict[str, str | Schema]:
    if style == "json":
        start = structure.index("{", structure.index(_JSON_OUTPUTS))
        described = json.JSONDecoder().raw_decode(structure, start)[0]
        matches = {name: _NOTE_IN_JSON.match(str(text)) for name, text in described.items()}
        return {name: match[1] for name, match in matches.items() if match}
    notes: dict[str, str | Schema] = dict(_NOTE.findall(structure))
    if style == "xml":
        nested = [ElementTree.fromstring(match[0]) for match in _XML_STRUCTURE.finditer(structure)]
        notes |= {element.tag: _xml_schema(element) for element in nested}
    return notes


def _xml_schema(element: ElementTree.Element) -> Schema:
    """Read a nested value of the XML adapter, which shows tags and no types: digits may be a text or a number."""
    children = list(element)
    if not children:
        return {"enum": ["1"]}
    if [child.tag for child in children] == ["item"]:
        return {"type": "array", "items": _xml_schema(children[0])}
    properties = {child.tag: _xml_schema(child) for child in children}
    return {"type": "object", "properties": properties, "required": list(properties)}


def _outputs(text: str, notes: Mapping[str, str | Schema]) -> list[OutputField]:
    matches = list(_FIELD.finditer(text))
    ends = [match.start() for match in matches[1:]] + [len(text)]
    return [_output(match, text[match.end() : end], notes) for match, end in zip(matches, ends, strict=True)]


def _output(match: re.Match[str], rest: str, notes: Mapping[str, str | Schema]) -> OutputField:
    name, annotation = match[1], match[2]
    limits = _CONSTRAINTS.search(rest)
    schema = {**_schema(annotation, notes.get(name, "")), **(_limits(limits[1]) if limits else {})}
    return OutputField(name, annotation, _CONSTRAINTS.sub("", rest).strip(), schema)


def _schema(annotation: str, note: str | Schema) -> Schema:
    if not isinstance(note, str):
        return {"type": "object"} if annotation.startswith("dict") else note
    rule, _, listed = note.partition(": ")
    if rule == "must adhere to the JSON schema":
        return json.loads(listed)
    if rule.endswith("one of"):
        return {"enum": _members(annotation, listed)}
    if rule.startswith("must be a single"):
        return {"type": "integer" if "int" in rule else "number"}
    return {"type": "boolean" if rule == "must be True or False" else "string"}


def _members(annotation: str, listed: str) -> list[Any]:
    if annotation.startswith("Literal["):
        # The annotation is exact; the note joins members by "; ", which a member may hold itself.
        with suppress(ValueError, SyntaxError):  # such as a member of an enum, which only the note has as a value
            return list(ast.literal_eval(annotation.removeprefix("Literal")))
    names = listed.split("; ")
    return [int(name) for name in names] if all(name.isdecimal() for name in names) else names


def _limits(text: str) -> dict[str, float]:
    pairs = (part.rpartition(": ") for part in text.split(", "))
    return {_KEYWORDS[phrase]: float(value) for phrase, _, value in pairs if phrase in _KEYWORDS}


def read_inputs(layout: PromptLayout, user: str) -> dict[str, str]:
    """Return the input fields' texts from the last user message. A header inside a value stays part of the value."""
    starts = [(name, *_span(layout.style, name, user)) for name in layout.input_names]
    present = [(name, start, begin) for name, start, begin in starts if start >= 0]
    tail = user.rfind("\n\nRespond with ")
    ends = [*(start for _, start, _ in present[1:]), tail if tail >= 0 else len(user)][: len(present)]
    close = "\n</{}>" if layout.style == "xml" else ""
    return {
        name: user[begin:end].strip("\n").removesuffix(close.format(name))
        for (name, _, begin), end in zip(present, ends, strict=True)
    }


def _span(style: Style, name: str, user: str) -> tuple[int, int]:
    header = f"<{name}>\n" if style == "xml" else f"[[ ## {name} ## ]]\n"
    start = user.find(header)
    return start, start + len(header)
