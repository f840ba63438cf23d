"""Encode and decode values of the bridge protocol: JSON in an Any, large embeddings as an Erlang term beside it.

Only the forms that the server is known to send are decoded. Anything else is an error: an Erlang term or a pickle can
hold anything, so neither is loaded.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any, cast

from google.protobuf.any_pb2 import Any as AnyMessage

from snakepit_bridge.elixir.errors import UnreadableVariableError
from snakepit_bridge.elixir.generated import snakepit_bridge_pb2 as pb
from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.variables import Constraints, Variable, VariableType
from snakepit_bridge.variables.codec import encode_canonical, parse, shorten_repr
from snakepit_bridge.variables.types import to_json

TYPE_URL = "type.googleapis.com/snakepit."
_BINARY = f"{TYPE_URL}embedding.binary"

# A list of floats in Erlang's external term format: version, list tag and length; a tag before each float; nil.
_LIST, _FLOAT, _NIL = b"\x83\x6c", 0x46, b"\x6a"
_HEADER_BYTES, _FLOAT_BYTES = 6, 9


@dataclass(frozen=True, slots=True)
class RemoteVariable:
    """A variable as Elixir has it.

    ``id`` and ``version`` are the server's and are reused after its restart, so they can't be compared between polls.
    ``dropped`` names constraints that have no meaning here, such as a pattern in a dialect that Python can't read.
    """

    id: str
    version: int
    variable: Variable
    dropped: tuple[str, ...] = ()


def encode(variable: Variable) -> AnyMessage:
    """Return a variable's value as it is sent: embeddings and tensors as JSON at any size."""
    return AnyMessage(type_url=TYPE_URL + variable.type, value=encode_canonical(to_json(variable.type, variable.value)))


def encode_constraints(constraints: Constraints) -> str:
    """Return constraints as they are sent. They have been checked: a malformed one can take Elixir's sessions down."""
    return encode_canonical(constraints.as_dict()).decode()


def decode(message: pb.Variable) -> RemoteVariable:
    """Return the variable that a message holds.

    Raises:
        UnreadableVariableError: its type is unknown, or the value isn't one of its type.
    """
    try:
        kind = VariableType.of(message.name, message.type)
        constraints, dropped = _decode_constraints(message)
        return RemoteVariable(
            message.id,
            message.version,
            Variable(message.name, kind, _decode_value(message, kind), constraints),
            dropped,
        )
    except UnreadableVariableError:
        raise
    except (ValidationError, ValueError, RecursionError) as exc:
        raise UnreadableVariableError(message.name, str(exc).rstrip(".") or type(exc).__name__) from exc


def _decode_value(message: pb.Variable, kind: VariableType) -> Any:
    url = message.value.type_url
    if url == _BINARY and kind is VariableType.EMBEDDING:
        return _decode_embedding(message)
    if url != TYPE_URL + kind:
        raise UnreadableVariableError(message.name, f"it is of type {kind}, and its value of type {shorten_repr(url)}")
    return parse(message.value.value)


def _decode_embedding(message: pb.Variable) -> tuple[float, ...]:
    """Decode a binary embedding. Its label says float32 but the data are float64, so the label's dtype is ignored."""
    label = parse(message.value.value)
    floats = parse_erlang_floats(message.binary_value)
    wanted = ("erlang_binary", [len(floats)])
    if not isinstance(label, dict) or (label.get("binary_format"), label.get("shape")) != wanted:
        raise ValueError(f"a binary embedding of {len(floats)} numbers is labelled {shorten_repr(label)}")
    return floats


def parse_erlang_floats(term: bytes) -> tuple[float, ...]:
    """Return the floats of an Erlang external term that is a proper list of floats.

    Raises:
        ValueError: it is any other term, or cut off.
    """
    count = int.from_bytes(term[2:_HEADER_BYTES], "big")
    end = _HEADER_BYTES + count * _FLOAT_BYTES
    if term[:2] != _LIST or len(term) != end + 1 or term[end:] != _NIL:
        raise ValueError(f"its binary data is no Erlang list of floats; it begins with {term[:8].hex(' ')}")
    body = term[_HEADER_BYTES:end]
    if body[::_FLOAT_BYTES].count(_FLOAT) != count:
        raise ValueError("its binary data is an Erlang list that holds something else than floats")
    floats = tuple(number for (number,) in struct.iter_unpack(">xd", body))
    if not all(map(math.isfinite, floats)):
        raise ValueError("its binary data holds a float that isn't finite, which Erlang has none of")
    return floats


def encode_erlang_floats(floats: tuple[float, ...]) -> bytes:
    """Encode floats as the server sends those of a large embedding."""
    return (
        _LIST
        + struct.pack(">I", len(floats))
        + b"".join(struct.pack(">Bd", _FLOAT, number) for number in floats)
        + _NIL
    )


def _decode_constraints(message: pb.Variable) -> tuple[Constraints, tuple[str, ...]]:
    """Decode constraints, dropping unreadable ones: Elixir enforces them itself, and the value must stay usable."""
    given = parse(message.constraints_json or "{}")
    try:
        return Constraints.of(given, message.name), ()
    except ValidationError:
        return _keep_readable_constraints(message.name, given)


def _keep_readable_constraints(name: str, given: Any) -> tuple[Constraints, tuple[str, ...]]:
    if not isinstance(given, dict):
        return Constraints(), ("all of them",)
    kept: dict[str, Any] = {}
    dropped: list[str] = []
    for key, rule in sorted(cast("dict[str, Any]", given).items()):
        try:
            Constraints.of({**kept, key: rule}, name)
        except ValidationError:
            dropped.append(key)
        else:
            kept[key] = rule
    return Constraints.of(kept, name), tuple(dropped)
