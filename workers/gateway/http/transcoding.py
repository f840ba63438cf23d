"""Messages as JSON and back. One mapping for all of them, so that HTTP says exactly what gRPC says.

A field keeps its name, but ``…_json``, whose JSON stands there itself: ``"value": 0.5``. Enums are their own part in
small letters (``float``, ``queued``), times are RFC 3339, and what is absent in the message is left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from snakepit_bridge.protocol.json_values import BOUNDS, problem_of
from snakepit_bridge.variables.codec import parse, shown, written
from workers.gateway.errors import MalformedError
from workers.gateway.json_text import quote_non_finite

_JSON = "_json"
_INTEGERS: dict[int, tuple[int, int]] = {
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}
REQUIRED: dict[str, tuple[str, ...]] = {
    "Change": ("name",),
    "PublishRequest": ("changes",),
    "RegisterRequest": ("name", "spec"),
    "RollbackRequest": ("to",),
    "SubmitBatchRequest": ("requests",),
    "SubmitRequest": ("program",),
}
"""Fields that have to stand in JSON, by message: gRPC can't tell them from empty ones, and a reader of JSON can."""

_TIMESTAMP = "google.protobuf.Timestamp"


def json_name(field: FieldDescriptor) -> str:
    """Returns the name that a field has in JSON."""
    return field.name.removesuffix(_JSON) if is_json(field) else field.name


def is_json(field: FieldDescriptor) -> bool:
    """Tells whether a field's bytes are JSON that stands in the text itself."""
    return field.type == FieldDescriptor.TYPE_BYTES and field.name.endswith(_JSON)


def enum_names(enum: EnumDescriptor) -> dict[str, int]:
    """Returns the names that an enum's values have in JSON; the one that stands for none isn't among them."""
    values = cast("Iterable[Any]", enum.values)
    prefix = "".join(f"_{letter}" if letter.isupper() else letter for letter in enum.name).lstrip("_").upper() + "_"
    return {value.name.removeprefix(prefix).lower(): value.number for value in values if value.number}


def fields_of(descriptor: Any) -> list[FieldDescriptor]:
    """Returns the fields of a message's descriptor, in their order."""
    return list(descriptor.fields)


def message_to_json(message: Message) -> dict[str, Any]:
    """Returns a message as JSON types."""
    there = [field for field in fields_of(message.DESCRIPTOR) if _is_present(message, field)]
    return {json_name(field): _field_to_json(field, getattr(message, field.name)) for field in there}


def _is_present(message: Message, field: FieldDescriptor) -> bool:
    if field.is_repeated:
        return True
    if field.has_presence:
        return message.HasField(field.name)
    return bool(getattr(message, field.name)) or not (is_json(field) or field.enum_type is not None)


def _field_to_json(field: FieldDescriptor, value: Any) -> Any:
    return [_value_to_json(field, item) for item in value] if field.is_repeated else _value_to_json(field, value)


def _value_to_json(field: FieldDescriptor, value: Any) -> Any:
    if is_json(field):
        return parse(value)
    if field.message_type is not None:
        return value.ToJsonString() if field.message_type.full_name == _TIMESTAMP else message_to_json(value)
    if field.enum_type is not None:
        return next((name for name, number in enum_names(field.enum_type).items() if number == value), value)
    return quote_non_finite(value)


def message_from_json(kind: type[Any], given: Mapping[str, Any], where: str = "body") -> Any:
    """Returns the message that JSON types stand for.

    Raises:
        MalformedError: a field is unknown, of another type, or excludes another that is there.
    """
    message = kind()
    _fill_message(message, given, where)
    return message


def _fill_message(message: Message, given: Mapping[str, Any], where: str) -> None:
    known = {json_name(field): field for field in fields_of(message.DESCRIPTOR)}
    _check_required(message, given, where)
    for key, value in given.items():
        field = known.get(key)
        if field is None:
            raise MalformedError(where, f"it has no field {shown(key)}; it takes {', '.join(known)}")
        at = f"{where}.{key}"
        choice = field.containing_oneof
        if choice is not None and _is_unset_choice(field, value):
            continue
        if choice is not None and message.WhichOneof(choice.name) is not None:
            raise MalformedError(at, f"it excludes {message.WhichOneof(choice.name)}")
        _set_field(message, field, value, at)


def _is_unset_choice(field: FieldDescriptor, value: Any) -> bool:
    """An empty token is none, and not to delete is no change."""
    return (field.type, value) == (FieldDescriptor.TYPE_STRING, "") or (
        field.type == FieldDescriptor.TYPE_BOOL and value is False
    )


def _check_required(message: Message, given: Mapping[str, Any], where: str) -> None:
    for key in REQUIRED.get(message.DESCRIPTOR.name, ()):
        if key not in given:
            raise MalformedError(where, f"it lacks {key!r}")


def _set_field(message: Message, field: FieldDescriptor, value: Any, at: str) -> None:
    if not field.is_repeated:
        if field.message_type is not None:
            part = getattr(message, field.name)
            part.SetInParent()
            _fill_message(part, _require_object(value, at), at)
        else:
            setattr(message, field.name, _value_from_json(field, value, at))
        return
    if not isinstance(value, list):
        raise MalformedError(at, f"it is a list, not {shown(value)}")
    held = getattr(message, field.name)
    for number, item in enumerate(cast("list[Any]", value)):
        if field.message_type is not None:
            _fill_message(held.add(), _require_object(item, f"{at}[{number}]"), f"{at}[{number}]")
        else:
            held.append(_value_from_json(field, item, f"{at}[{number}]"))


def _require_object(value: Any, at: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(at, f"it is an object, not {shown(value)}")
    return cast("dict[str, Any]", value)


def _value_from_json(field: FieldDescriptor, value: Any, at: str) -> Any:
    if is_json(field):
        return _encode_json(value, at)
    if field.enum_type is not None:
        return _parse_enum(field.enum_type, value, at)
    if field.type in _INTEGERS:
        low, high = _INTEGERS[field.type]
        value = int(value) if isinstance(value, float) and value.is_integer() else value
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise MalformedError(at, f"it is a whole number from {low} to {high}, not {shown(value)}")
        return value
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return _parse_number(value, at)
    wanted, what = (bool, "true or false") if field.type == FieldDescriptor.TYPE_BOOL else (str, "text")
    if not isinstance(value, wanted):
        raise MalformedError(at, f"it is {what}, not {shown(value)}")
    return _check_utf8(value, at) if isinstance(value, str) else value


def _encode_json(value: Any, at: str) -> bytes:
    if (problem := problem_of(value, BOUNDS)) is not None:
        raise MalformedError(at, problem)
    try:
        # The order of an object's keys is that of the prompt.
        return written(quote_non_finite(value))
    except (ValueError, RecursionError) as exc:
        raise MalformedError(at, str(exc)) from exc


def _parse_enum(enum: EnumDescriptor, value: Any, at: str) -> int:
    names = enum_names(enum)
    if not isinstance(value, str) or value not in names:
        raise MalformedError(at, f"it is one of {', '.join(names)}, not {shown(value)}")
    return names[value]


def _parse_number(value: Any, at: str) -> float:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise MalformedError(at, f"it is a number, not {shown(value)}")
    return number


def _check_utf8(value: str, at: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MalformedError(at, "it holds a lone surrogate, which UTF-8 can't carry") from None
    return value


def parse_texts(kind: type[Any], given: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Returns the JSON types that texts of a path or query stand for, for ``from_json``.

    Raises:
        MalformedError: a field is unknown, stands twice, or isn't of its type.
    """
    known = {json_name(field): field for field in fields_of(kind.DESCRIPTOR)}
    found: dict[str, Any] = {}
    for key, text in given:
        field = known.get(key)
        if field is None or field.message_type is not None:
            raise MalformedError("query", f"it has no {shown(key)}; it takes {', '.join(known)}")
        if field.is_repeated:
            found.setdefault(key, []).append(text)
        elif key in found:
            raise MalformedError(f"query.{key}", "it stands twice")
        else:
            found[key] = (
                text if field.type == FieldDescriptor.TYPE_STRING else _parse_scalar(field, text, f"query.{key}")
            )
    return found


def _parse_scalar(field: FieldDescriptor, text: str, at: str) -> Any:
    try:
        value = parse(text)
    except (ValueError, RecursionError):
        value = None
    if value is None or (isinstance(value, float) and field.type in _INTEGERS):
        raise MalformedError(at, f"{shown(text)} is no number")
    return value
