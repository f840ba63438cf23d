"""SignatureSpec: a DSPy signature as data, complete enough that the prompt comes out the same in another process."""

from __future__ import annotations

from typing import Any, Literal, Self, cast

import dspy
from dspy.utils.constants import IS_TYPE_UNDEFINED
from pydantic import BaseModel, ConfigDict, Field, JsonValue
from pydantic_core import PydanticUndefined

from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.allowed import AllowedImports
from snakepit_bridge.programs.field_types import parse_type, spell_type

# DSPy and pydantic give these names a meaning of their own.
_RESERVED = frozenset({"fields", "signature", "instructions", "model_config", "self", "config", "lm", "demos"})


class FieldSpec(BaseModel):
    """One input or output field."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(max_length=100)
    direction: Literal["input", "output"]
    type: str = "str"
    # What DSPy itself asks: whether the user wrote the type or left it open.
    typed: bool = True
    desc: str | None = None
    prefix: str | None = None
    constraints: str | None = None
    has_default: bool = False
    default: JsonValue = None


class SignatureSpec(BaseModel):
    """A signature: its instructions and its fields in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "StringSignature"
    instructions: str | None = None
    fields: tuple[FieldSpec, ...] = Field(min_length=1, max_length=200)

    @classmethod
    def parse(cls, text: str, *, program: str) -> Self:
        """Reads ``"question, context: list[str] -> answer: float"`` without importing anything.

        Raises:
            ProgramSpecError: it isn't of that form.
        """
        inputs, arrow, outputs = text.partition("->")
        if not arrow or "->" in outputs or len(text) > 20_000:
            raise ProgramSpecError(program, "signature", f"{text[:80]!r} isn't of the form 'inputs -> outputs'")
        fields = [_field(part, "input", program) for part in _split(inputs)]
        fields += [_field(part, "output", program) for part in _split(outputs)]
        if not any(f.direction == "input" for f in fields) or not any(f.direction == "output" for f in fields):
            raise ProgramSpecError(program, "signature", f"{text[:80]!r} needs a field on each side of '->'")
        return cls(fields=tuple(fields))

    @classmethod
    def of(cls, signature: Any, *, program: str) -> Self:
        """Reads a DSPy signature class."""
        fields = [_described(name, info, program) for name, info in signature.fields.items()]
        return cls(name=signature.__name__, instructions=signature.instructions, fields=tuple(fields))

    def build(self, allowed: AllowedImports, *, program: str) -> Any:
        """Returns the DSPy signature class.

        Raises:
            ProgramSpecError: a field's name is reserved or its type isn't allowed.
        """
        fields: dict[str, tuple[Any, Any]] = {}
        for field in self.fields:
            where = f"signature.{field.name}"
            if field.name in _RESERVED or not field.name.isidentifier() or field.name.startswith("_"):
                raise ProgramSpecError(program, where, f"a field can't be named '{field.name}'")
            if field.name in fields:
                raise ProgramSpecError(program, where, "two fields have this name")
            fields[field.name] = (parse_type(field.type, allowed, program=program, where=where), _info(field))
        return dspy.Signature(cast(Any, fields), self.instructions, signature_name=self.name)


def _info(field: FieldSpec) -> Any:
    said: dict[str, Any] = {key: getattr(field, key) for key in ("desc", "prefix") if getattr(field, key) is not None}
    if field.has_default:
        said["default"] = field.default
    info = dspy.InputField(**said) if field.direction == "input" else dspy.OutputField(**said)
    if field.constraints is not None:
        info.json_schema_extra["constraints"] = field.constraints
    if not field.typed:
        info.json_schema_extra[IS_TYPE_UNDEFINED] = True
    return info


def _described(name: str, info: Any, program: str) -> FieldSpec:
    extra = info.json_schema_extra or {}
    has_default = info.default is not PydanticUndefined
    return FieldSpec(
        name=name,
        direction=extra["__dspy_field_type"],
        type=spell_type(info.annotation, program=program, where=f"signature.{name}"),
        typed=not extra.get(IS_TYPE_UNDEFINED, False),
        has_default=has_default,
        default=info.default if has_default else None,
        **{key: extra.get(key) for key in ("desc", "prefix", "constraints")},
    )


def _field(text: str, direction: Literal["input", "output"], program: str) -> FieldSpec:
    name, colon, kind = text.partition(":")
    if not name.strip().isidentifier():
        raise ProgramSpecError(program, "signature", f"{text.strip()[:80]!r} isn't a field like name or name: type")
    return FieldSpec(name=name.strip(), direction=direction, type=kind.strip() if colon else "str", typed=bool(colon))


def _split(text: str) -> list[str]:
    """Splits at the commas that stand outside brackets and quotes."""
    parts, depth, quote, start = list[str](), 0, "", 0
    for index, char in enumerate(text):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char in "[(":
            depth += 1
        elif char in "])":
            depth -= 1
        elif char == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return [part for part in (*parts, text[start:]) if part.strip()]
