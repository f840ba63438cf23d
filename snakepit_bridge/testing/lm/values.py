"""Deterministic values that fit a JSON schema: what a stand-in LM says where nobody told it what to say.

Equal seeds give equal values, in every process, so that a repeated prediction can be compared with the first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from math import ceil, floor
from typing import Any, cast
from uuid import UUID

Schema = Mapping[str, Any]

_EPOCH = datetime(2024, 1, 1, tzinfo=UTC)
_SHALLOW = 2
_DEEPEST = 5


@dataclass(frozen=True, slots=True)
class _Draw:
    """One place in a value: the seed and the path make its number."""

    seed: str
    path: str
    definitions: Mapping[str, Schema]
    depth: int = 0

    def at(self, step: object) -> _Draw:
        return _Draw(self.seed, f"{self.path}/{step}", self.definitions, self.depth + 1)

    @property
    def digest(self) -> bytes:
        return blake2b(f"{self.seed}\0{self.path}".encode(), digest_size=16).digest()

    @property
    def number(self) -> int:
        return int.from_bytes(self.digest[:8], "big")


def value_for(schema: Schema, seed: str, name: str) -> Any:
    """Return a JSON value that fits the schema; the same seed and name always give the same one.

    Understands what pydantic writes for the usual types. A ``pattern`` is not looked at.
    """
    return _value(schema, _Draw(seed, name, schema.get("$defs", {})))


def _value(schema: Schema, draw: _Draw) -> Any:
    if "$ref" in schema:
        return _value(draw.definitions[str(schema["$ref"]).rsplit("/", 1)[-1]], draw)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return schema["enum"][draw.number % len(schema["enum"])]
    for keyword in ("anyOf", "oneOf", "allOf"):
        if keyword in schema:
            return _one_of(schema[keyword], draw)
    return _MAKERS.get(schema.get("type", "string"), _string)(schema, draw)


def _one_of(branches: list[Schema], draw: _Draw) -> Any:
    options = [branch for branch in branches if branch.get("type") != "null"]
    if not options or (len(options) < len(branches) and draw.depth >= _DEEPEST):
        return None
    return _value(options[0], draw)


def _null(schema: Schema, draw: _Draw) -> None:
    return None


def _boolean(schema: Schema, draw: _Draw) -> bool:
    return bool(draw.number % 2)


def _integer(schema: Schema, draw: _Draw) -> int:
    step = ceil(schema.get("multipleOf", 1))
    low, high = _bounds(schema)
    first, last = ceil(low / step), floor(high / step)
    if first * step == schema.get("exclusiveMinimum"):
        first += 1
    if last * step == schema.get("exclusiveMaximum"):
        last -= 1
    return (first + draw.number % max(1, last - first + 1)) * step


def _number(schema: Schema, draw: _Draw) -> float:
    if "multipleOf" in schema:
        low, high = _bounds(schema)
        step = schema["multipleOf"]
        return (ceil(low / step) + draw.number % max(1, floor((high - low) / step))) * step
    low, high = _bounds(schema)
    # Never a bound itself, so an exclusive one holds too; a single allowed value is that value.
    share = (draw.number % 998 + 1) / 1000
    return round(low + (high - low) * share, 6) if high > low else low


def _bounds(schema: Schema) -> tuple[float, float]:
    low = schema.get("minimum", schema.get("exclusiveMinimum"))
    high = schema.get("maximum", schema.get("exclusiveMaximum"))
    if low is None:
        low = 0 if high is None or high > 0 else high - 1000
    return low, low + 1000 if high is None else high


def _string(schema: Schema, draw: _Draw) -> str:
    if "format" in schema:
        return _formatted(str(schema["format"]), draw)
    text = f"{draw.path.replace('/', ' ')} {draw.digest.hex()[:8]}"
    text = text.ljust(int(schema.get("minLength", 0)), "-")
    return text[: int(schema.get("maxLength", len(text)))]


def _formatted(kind: str, draw: _Draw) -> str:
    moment = _EPOCH + timedelta(seconds=draw.number % (366 * 86_400))
    known = {
        "date": moment.date().isoformat(),
        "date-time": moment.isoformat(),
        "time": moment.time().isoformat(),
        "duration": f"PT{draw.number % 3600}S",
        "uuid": str(UUID(bytes=draw.digest)),
        "email": f"{draw.digest.hex()[:8]}@example.com",
        "uri": f"https://example.com/{draw.digest.hex()[:8]}",
    }
    return known.get(kind, draw.digest.hex()[:8])


def _array(schema: Schema, draw: _Draw) -> list[Any]:
    if "prefixItems" in schema:
        return [_value(item, draw.at(index)) for index, item in enumerate(schema["prefixItems"])]
    least, most = schema.get("minItems", 0), schema.get("maxItems", 3)
    wanted = least if draw.depth >= _DEEPEST else max(least, min(most, 1 + draw.number % 3))
    items = [_value(schema.get("items", {}), draw.at(index)) for index in range(wanted)]
    if schema.get("uniqueItems"):
        return [item for index, item in enumerate(items) if item not in items[:index]]
    return items


def _object(schema: Schema, draw: _Draw) -> dict[str, Any]:
    properties = cast("dict[str, Schema]", schema.get("properties", {}))
    required = set(schema.get("required", ()))
    value = {
        name: _value(part, draw.at(name))
        for name, part in properties.items()
        if name in required or draw.depth < _SHALLOW
    }
    extra = schema.get("additionalProperties")
    if not properties and isinstance(extra, Mapping):
        value["key"] = _value(cast(Schema, extra), draw.at("key"))
    return value


_MAKERS = {
    "array": _array,
    "boolean": _boolean,
    "integer": _integer,
    "null": _null,
    "number": _number,
    "object": _object,
    "string": _string,
}
