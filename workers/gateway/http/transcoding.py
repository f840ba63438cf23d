"""Convert protobuf messages to JSON and back, with one mapping for all of them.

Fields keep their names, except ``…_json`` fields, whose JSON is inlined: ``"value": 0.5``. Enum values are in lowercase
without their prefix (``float``, ``queued``), times are RFC 3339, and absent fields are omitted.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any, cast

from google.protobuf.descriptor import EnumDescriptor, FieldDescriptor
from google.protobuf.message import Message

from snakepit_bridge.protocol.json_values import BOUNDS, find_problem
from snakepit_bridge.variables.codec import encode_json, parse, shorten_repr
from workers.gateway.errors import MalformedError
from workers.gateway.json_text import to_strict_json

_JSON = "_json"
_INTEGERS: dict[int, tuple[int, int]] = {
    FieldDescriptor.TYPE_UINT32: (0, 2**32 - 1),
    FieldDescriptor.TYPE_UINT64: (0, 2**64 - 1),
}
# An enum's value is its name, as in a body.
_TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_ENUM)
REQUIRED: dict[str, tuple[str, ...]] = {
    "AddDatasetRequest": ("name", "examples", "inputs"),
    "AddFromPredictionsRequest": ("program", "name"),
    "AddJudgeRequest": ("judged", "name", "program", "inputs"),
    "Change": ("name",),
    "Check": ("name",),
    "CompareEvaluationsRequest": ("candidate",),
    "DecideExperimentRequest": ("arm", "reason"),
    "StopExperimentRequest": ("reason",),
    "DiffDatasetsRequest": ("after",),
    "DiffRequest": ("before",),
    "ExperimentArm": ("name", "weight", "revision"),
    "PublishRequest": ("changes",),
    "RegisterRequest": ("name", "spec"),
    "RollbackRequest": ("to",),
    "ScoreRequest": ("name", "value"),
    "SetLabelRequest": ("label",),
    "SetProgramLabelRequest": ("label", "version"),
    "SetRecorderRequest": ("program",),
    "StartEvaluationRequest": ("program", "dataset", "metric"),
    "StartExperimentRequest": ("target", "name", "arms"),
    "StartOptimizationRequest": ("program", "trainset", "metric", "optimizer"),
    "StartRolloutRequest": ("target",),
    "StepRolloutRequest": ("reason",),
    "SubmitBatchRequest": ("requests",),
    "SubmitRequest": ("program",),
}
"""Fields that JSON must contain, by message; in protobuf a missing field can't be told from an empty one."""

_TIMESTAMP = "google.protobuf.Timestamp"


def needs_body(request: type[Any], in_path: Iterable[str]) -> bool:
    """Check whether requests need a body: what is required isn't all in the path."""
    return bool(set(REQUIRED.get(request.DESCRIPTOR.name, ())) - set(in_path))


def json_name(field: FieldDescriptor) -> str:
    """Return the JSON name of a field."""
    return field.name.removesuffix(_JSON) if is_json(field) else field.name


def is_json(field: FieldDescriptor) -> bool:
    """Check whether a field holds JSON that is inlined."""
    return field.type == FieldDescriptor.TYPE_BYTES and field.name.endswith(_JSON)


def find_map_value(field: FieldDescriptor) -> FieldDescriptor | None:
    """Return the field of a map's values; None for a field that is no map."""
    entry: Any = field.message_type
    if entry is None or not entry.GetOptions().map_entry:
        return None
    return entry.fields_by_name["value"]


def enum_names(enum: EnumDescriptor) -> dict[str, int]:
    """Return the numbers of an enum's values by JSON name, without the unspecified one."""
    values = cast("Iterable[Any]", enum.values)
    prefix = "".join(f"_{letter}" if letter.isupper() else letter for letter in enum.name).lstrip("_").upper() + "_"
    return {value.name.removeprefix(prefix).lower(): value.number for value in values if value.number}


def fields_of(descriptor: Any) -> list[FieldDescriptor]:
    """Return the fields of a message descriptor in declaration order."""
    return list(descriptor.fields)


def message_to_json(message: Message) -> dict[str, Any]:
    """Return a message as JSON types."""
    present = [field for field in fields_of(message.DESCRIPTOR) if _is_present(message, field)]
    return {json_name(field): _field_to_json(field, getattr(message, field.name)) for field in present}


def _is_present(message: Message, field: FieldDescriptor) -> bool:
    if field.is_repeated:
        return True
    if field.has_presence:
        return message.HasField(field.name)
    return bool(getattr(message, field.name)) or not (is_json(field) or field.enum_type is not None)


def _field_to_json(field: FieldDescriptor, value: Any) -> Any:
    if (held := find_map_value(field)) is not None:
        return {str(key): _value_to_json(held, value[key]) for key in value}
    return [_value_to_json(field, item) for item in value] if field.is_repeated else _value_to_json(field, value)


def _value_to_json(field: FieldDescriptor, value: Any) -> Any:
    if is_json(field):
        return parse(value)
    if field.message_type is not None:
        return value.ToJsonString() if field.message_type.full_name == _TIMESTAMP else message_to_json(value)
    if field.enum_type is not None:
        return next((name for name, number in enum_names(field.enum_type).items() if number == value), value)
    return to_strict_json(value)


def message_from_json(kind: type[Any], given: Mapping[str, Any], where: str = "body") -> Any:
    """Parse a message from JSON types.

    Args:
        kind: the message class.
        given: the JSON object.
        where: what the object is, for errors.

    Raises:
        MalformedError: a field is missing, unknown, of the wrong type, or excludes another that is present.
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
            raise MalformedError(where, f"it has no field {shorten_repr(key)}; it takes {', '.join(known)}")
        at = f"{where}.{key}"
        choice = field.containing_oneof
        if choice is not None and _is_unset_choice(field, value):
            continue
        if choice is not None and message.WhichOneof(choice.name) is not None:
            raise MalformedError(at, f"it excludes {message.WhichOneof(choice.name)}")
        _set_field(message, field, value, at)


def _is_unset_choice(field: FieldDescriptor, value: Any) -> bool:
    """Check whether a value of a oneof field selects nothing: an empty token, or ``delete: false``."""
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
    if (held := find_map_value(field)) is not None:
        found = {key: _value_from_json(held, item, f"{at}.{key}") for key, item in _require_object(value, at).items()}
        getattr(message, field.name).update(found)
        return
    if not isinstance(value, list):
        raise MalformedError(at, f"it must be a list, not {shorten_repr(value)}")
    items = getattr(message, field.name)
    for index, item in enumerate(cast("list[Any]", value)):
        if field.message_type is not None:
            _fill_message(items.add(), _require_object(item, f"{at}[{index}]"), f"{at}[{index}]")
        else:
            items.append(_value_from_json(field, item, f"{at}[{index}]"))


def _require_object(value: Any, at: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise MalformedError(at, f"it must be an object, not {shorten_repr(value)}")
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
            raise MalformedError(at, f"it must be an integer from {low} to {high}, not {shorten_repr(value)}")
        return value
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return _parse_number(value, at)
    expected, name = (bool, "true or false") if field.type == FieldDescriptor.TYPE_BOOL else (str, "a string")
    if not isinstance(value, expected):
        raise MalformedError(at, f"it must be {name}, not {shorten_repr(value)}")
    return _check_utf8(value, at) if isinstance(value, str) else value


def _encode_json(value: Any, at: str) -> bytes:
    if (problem := find_problem(value, BOUNDS)) is not None:
        raise MalformedError(at, problem)
    try:
        # Keeps the order of an object's keys, which is their order in the prompt.
        return encode_json(to_strict_json(value))
    except (ValueError, RecursionError) as exc:
        raise MalformedError(at, str(exc)) from exc


def _parse_enum(enum: EnumDescriptor, value: Any, at: str) -> int:
    names = enum_names(enum)
    if not isinstance(value, str) or value not in names:
        raise MalformedError(at, f"it must be one of {', '.join(names)}, not {shorten_repr(value)}")
    return names[value]


def _parse_number(value: Any, at: str) -> float:
    try:
        number = float(value) if isinstance(value, int | float) and not isinstance(value, bool) else math.nan
    except OverflowError:
        number = math.nan
    if not math.isfinite(number):
        raise MalformedError(at, f"it must be a finite number, not {shorten_repr(value)}")
    return number


def _check_utf8(value: str, at: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise MalformedError(at, "it contains a lone surrogate, which UTF-8 can't encode") from None
    return value


def parse_texts(kind: type[Any], given: Iterable[tuple[str, str]]) -> dict[str, Any]:
    """Parse the parameters of a path and query to JSON types, for ``message_from_json``.

    Args:
        kind: the message class.
        given: names and texts of the parameters.

    Raises:
        MalformedError: a parameter is unknown, given twice, or of the wrong type.
    """
    known = {json_name(field): field for field in fields_of(kind.DESCRIPTOR)}
    parsed: dict[str, Any] = {}
    for key, text in given:
        field = known.get(key)
        if field is None or field.message_type is not None:
            raise MalformedError("query", f"it has no {shorten_repr(key)}; it takes {', '.join(known)}")
        if field.is_repeated:
            parsed.setdefault(key, []).append(text)
        elif key in parsed:
            raise MalformedError(f"query.{key}", "it is given twice")
        else:
            parsed[key] = text if field.type in _TEXTS else _parse_scalar(field, text, f"query.{key}")
    return parsed


def _parse_scalar(field: FieldDescriptor, text: str, at: str) -> Any:
    try:
        value = parse(text)
    except (ValueError, RecursionError):
        value = None
    if value is None or (isinstance(value, float) and field.type in _INTEGERS):
        raise MalformedError(at, f"{shorten_repr(text)} is not a number")
    return value
