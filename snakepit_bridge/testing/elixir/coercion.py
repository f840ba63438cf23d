"""What an Elixir server makes of a value: how it coerces, refuses, spells and packs it."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from typing import Any, cast

import grpc
from google.protobuf.any_pb2 import Any as AnyMessage

from snakepit_bridge.elixir.codec import TYPE_URL, encode_erlang_floats
from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.variables import Constraints, VariableType
from snakepit_bridge.variables.codec import parse
from snakepit_bridge.variables.types import coerce, to_json

_URLS = (TYPE_URL, "dspex.variables/")
# Above this many bytes of eight per float an embedding is sent as an Erlang term.
_BINARY_BYTES = 10_240
_REFUSALS = {
    VariableType.FLOAT: "must be a number",
    VariableType.INTEGER: "must be an integer",
    VariableType.STRING: "must be a string",
    VariableType.BOOLEAN: "must be a boolean (true or false)",
    VariableType.CHOICE: "must be a string",
    VariableType.MODULE: "must be a module name",
    VariableType.EMBEDDING: "must be a numeric list",
    VariableType.TENSOR: "must be a tensor with shape and data",
}


class RefusedCallError(Exception):
    """A call that the server ends with a status."""

    def __init__(self, status: grpc.StatusCode, details: str) -> None:
        super().__init__(status, details)
        self.status = status
        self.details = details


def read(sent: AnyMessage, kind: VariableType, rules: dict[str, Any], refusal: grpc.StatusCode) -> Any:
    """Return the value that was sent, as the type holds it.

    Raises:
        Refused: with ``refusal`` where it isn't of the type, with INTERNAL where it breaks a rule.
    """
    if not sent.type_url.startswith(_URLS):
        raise RefusedCallError(refusal, "unknown_type")
    if sent.type_url.removesuffix(".binary") != sent.type_url and kind is VariableType.TENSOR:
        raise RefusedCallError(refusal, "tensor.binary is not supported")
    try:
        given = parse(sent.value)
    except ValueError as wrong:
        raise RefusedCallError(
            refusal, f"%Jason.DecodeError{{data: {json.dumps(sent.value.decode(errors='replace'))}}}"
        ) from wrong
    try:
        value = coerce("value", kind, _lenient(kind, given))
    except (ValidationError, ValueError) as wrong:
        raise RefusedCallError(refusal, _refusal(kind, given)) from wrong
    obey(kind, value, rules)
    return value


def _lenient(kind: VariableType, given: Any) -> Any:
    """Return a value as Elixir takes it: true is an atom and so a text there, and no choice is an empty one."""
    if kind is VariableType.STRING and isinstance(given, bool):
        return str(given).lower()
    if kind is VariableType.CHOICE and given is None:
        return ""
    if kind is VariableType.BOOLEAN and not isinstance(given, float):
        return {"true": True, "false": False, 1: True, 0: False}.get(given, given) if _hashable(given) else given
    return given


def _hashable(given: Any) -> bool:
    return isinstance(given, str | int)


def _refusal(kind: VariableType, given: Any) -> str:
    if kind is VariableType.STRING and given is None:
        return "cannot be nil"
    if kind is VariableType.INTEGER and isinstance(given, float):
        return f"must be a whole number, got {_text(given)}"
    if kind is VariableType.EMBEDDING and isinstance(given, list):
        return "must be a list of numbers"
    if kind is VariableType.TENSOR and isinstance(given, dict) and {"data", "shape"} <= given.keys():
        return "data size doesn't match shape" if isinstance(given["data"], list) else _REFUSALS[kind]
    return _REFUSALS[kind]


def obey(kind: VariableType, value: Any, rules: dict[str, Any]) -> None:
    """Return if a value obeys its rules; NaN and the infinities pass every bound there.

    Raises:
        Refused: as INTERNAL, with the rule in the details.
    """
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and not math.isfinite(value):
        return
    if number and "max" in rules and value > rules["max"]:
        raise RefusedCallError(grpc.StatusCode.INTERNAL, f"value {value} is above maximum {rules['max']}")
    if number and "min" in rules and value < rules["min"]:
        raise RefusedCallError(grpc.StatusCode.INTERNAL, f"value {value} is below minimum {rules['min']}")
    try:
        Constraints.of(rules).check("value", kind, value)
    except ValidationError as broken:
        raise RefusedCallError(
            grpc.StatusCode.INTERNAL, _broken(value, rules) or f"value {broken.value} is invalid"
        ) from broken


def _broken(value: Any, rules: dict[str, Any]) -> str:
    """Return the words in which Elixir names the rule that a value breaks."""
    size = len(value) if isinstance(value, str | tuple) else 0
    if isinstance(value, str):
        if size < rules.get("min_length", size):
            return f"must be at least {rules['min_length']} characters, got {size}"
        if size > rules.get("max_length", size):
            return f"must be at most {rules['max_length']} characters, got {size}"
        for rule, words in (("enum", ""), ("choices", ""), ("allowed_modules", "the allowed modules: ")):
            if rule in rules and value not in rules[rule]:
                return f"must be one of{' ' if words else ': '}{words}{', '.join(rules[rule])}"
        return f"must match pattern: {rules['pattern']}" if "pattern" in rules else ""
    if "dimensions" in rules:
        return f"must have exactly {rules['dimensions']} dimensions"
    return f"shape must be {json.dumps(rules['shape'])}" if "shape" in rules else ""


def write(kind: VariableType, value: Any, *, binary: bool) -> tuple[AnyMessage, bytes]:
    """Return a value as the server sends it: the Any, and the binary beside it or nothing."""
    if kind is VariableType.EMBEDDING and binary and len(value) * 8 > _BINARY_BYTES and all(map(math.isfinite, value)):
        label = {"binary_format": "erlang_binary", "dtype": "float32", "shape": [len(value)], "type": "embedding"}
        url = f"{TYPE_URL}embedding.binary"
        return AnyMessage(type_url=url, value=_text(label).encode()), encode_erlang_floats(value)
    return AnyMessage(type_url=TYPE_URL + kind, value=_text(to_json(kind, value)).encode()), b""


def _text(value: Any) -> str:
    """JSON as Elixir spells it: floats always with a point, and in the shorter of their two forms."""
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, list | tuple):
        return f"[{','.join(map(_text, cast('list[Any]', value)))}]"
    if isinstance(value, dict):
        pairs = sorted(cast("dict[str, Any]", value).items())
        return "{" + ",".join(f"{json.dumps(key, ensure_ascii=False)}:{_text(item)}" for key, item in pairs) + "}"
    return json.dumps(value, ensure_ascii=False)


def _float(value: float) -> str:
    plain = repr(value)
    sign, digits, exponent = Decimal(plain).normalize().as_tuple()
    first, *rest = map(str, digits)
    power = int(exponent) + len(rest)
    short = f"{'-' if sign else ''}{first}.{''.join(rest) or '0'}e{power}"
    return short if "e" in plain or len(short) < len(plain) else plain
