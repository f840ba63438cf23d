"""Edits of a session's variables as a form has them: text, which is turned into the changes of a publish."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import BridgeError, ValidationError
from snakepit_bridge.variables import Constraints, Variable, VariableType
from snakepit_bridge.variables.codec import NON_FINITE, encode_json, parse
from snakepit_bridge.variables.types import TEXT_TYPES
from workers.gateway.api.converters import parse_changes
from workers.gateway.console.forms import Form
from workers.gateway.console.rendering import format_whole_value

MAX_EDITED_CHARS = 50_000
"""Characters of a value that a form shows for editing; a longer one is published over the API."""

TYPES = tuple(VariableType)
"""The types of variables."""


@dataclass(frozen=True, slots=True)
class VariableEdit:
    """One variable in a form.

    Attributes:
        name: its name.
        type: its type's name; empty for what follows from the value.
        text: its value as it was typed: text without quotes, numbers and everything else as JSON.
        constraints: as JSON; empty for none.
        delete: whether it is to be deleted.
        is_new: whether the session doesn't have it yet.
        is_long: whether its value is too long to be edited.
    """

    name: str = ""
    type: str = ""
    text: str = ""
    constraints: str = ""
    delete: bool = False
    is_new: bool = False
    is_long: bool = False


@dataclass(frozen=True, slots=True)
class CheckedEdit:
    """An edit that changes something, and what was found about it.

    Attributes:
        name: the variable's.
        before: its present value as JSON; None if it is new.
        change: the change; None if the text can't be one.
        problem: why it can't be published; empty if it can.
    """

    name: str
    before: bytes | None
    change: pb.Change | None
    problem: str = ""


def describe_type(variable: Any) -> str:
    """Return the name of a variable's type."""
    return pb.VariableType.Name(variable.type).removeprefix("VARIABLE_TYPE_").lower()


def edits_of(variables: Iterable[Any]) -> list[VariableEdit]:
    """Return the variables of a snapshot as a form shows them first."""
    return [_edit_of(variable) for variable in variables]


def _edit_of(variable: Any) -> VariableEdit:
    is_long = len(variable.value_json) > MAX_EDITED_CHARS
    constraints = variable.constraints_json.decode()
    return VariableEdit(
        variable.name,
        describe_type(variable),
        "" if is_long else _clean(format_whole_value(variable.value_json)),
        "" if constraints == "{}" else constraints,
        is_long=is_long,
    )


def read_edits(form: Form, now: Sequence[VariableEdit]) -> list[VariableEdit]:
    """Return the edits of a form that was sent.

    Args:
        form: its fields ``variable``, ``type``, ``value`` and ``constraints``, one of each for a variable, and
            ``delete`` with the names that are to be deleted.
        now: the variables that the session has.
    """
    rows = zip(*(form.get(name, []) for name in ("variable", "type", "value", "constraints")), strict=False)
    deleted, known = set(form.get("delete", [])), {edit.name: edit for edit in now}
    return [
        VariableEdit(
            name, type_, _clean(text), _clean(constraints).strip(), name in deleted and name in known,
            name not in known, name in known and known[name].is_long,
        )
        for name, type_, text, constraints in rows
        if name.strip()
    ]  # fmt: skip


def check_edits(edits: Iterable[VariableEdit], variables: Mapping[str, Any]) -> list[CheckedEdit]:
    """Return the edits that change something, each with the problem that a publish would have with it.

    Args:
        edits: those of the form.
        variables: the session's, by name.
    """
    before = {name: _parse_variable(variable) for name, variable in variables.items()}
    first = {name: _edit_of(variable) for name, variable in variables.items()}
    return [_check(edit, variables, before) for edit in edits if edit.delete or edit != first.get(edit.name)]


def rebase_edits(
    edits: Iterable[VariableEdit], checked: Iterable[CheckedEdit], newest: Iterable[VariableEdit]
) -> list[VariableEdit]:
    """Return a form's edits on top of a newer revision: what they don't change is as somebody else has published it.

    Args:
        edits: those of the form.
        checked: those of them that change something.
        newest: the variables of the newer revision.
    """
    changed, now = {edit.name for edit in checked}, {edit.name: edit for edit in newest}
    kept = [edit if edit.name in changed else now.get(edit.name) for edit in edits]
    return [replace(edit, is_new=edit.name not in now) for edit in kept if edit is not None]


def _check(edit: VariableEdit, variables: Mapping[str, Any], before: Mapping[str, Variable]) -> CheckedEdit:
    old = variables[edit.name].value_json if edit.name in variables else None
    try:
        change = _build_change(edit)
        parse_changes([change], before)
    except (BridgeError, ValueError) as exc:
        return CheckedEdit(edit.name, old, None, str(exc))
    return CheckedEdit(edit.name, old, change)


def _build_change(edit: VariableEdit) -> pb.Change:
    if edit.delete:
        return pb.Change(name=edit.name, delete=True)
    type_ = f"VARIABLE_TYPE_{edit.type.upper()}" if edit.type in TYPES else None
    change = pb.Change(name=edit.name, value_json=_parse_text(edit), type=type_)
    # A variable that has constraints loses them with an empty object.
    if edit.constraints or not edit.is_new:
        change.constraints_json = (edit.constraints or "{}").encode()
    return change


def _parse_text(edit: VariableEdit) -> bytes:
    """Return what was typed as JSON.

    Raises:
        ValidationError: it isn't JSON, and isn't meant as text.
    """
    text = edit.text.strip()
    if edit.type in TEXT_TYPES:
        return encode_json(edit.text)
    if text in NON_FINITE:
        return encode_json(text)
    try:
        parse(text)
    except ValueError as exc:
        if not edit.type:
            return encode_json(edit.text)
        raise ValidationError(edit.name, "read", f"a value of type {edit.type} is written as JSON ({exc})") from exc
    return text.encode()


def _parse_variable(variable: Any) -> Variable:
    """Return a variable of a message.

    Raises:
        ValidationError: it can't be one.
    """
    value, constraints = parse(variable.value_json), parse(variable.constraints_json or b"{}")
    kind, name = VariableType.of(variable.name, describe_type(variable)), variable.name
    return Variable(name, kind, value, Constraints.of(constraints, name, stored=True))


def _clean(text: str) -> str:
    """Return a text with the line breaks that a browser's form has changed as they were."""
    return text.replace("\r\n", "\n")
