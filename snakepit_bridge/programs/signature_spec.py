"""SignatureSpec: a DSPy signature as data, complete enough for another process to format the same prompt."""

from __future__ import annotations

import ast
from collections.abc import Callable
from typing import Any, Literal, Self, cast

import dspy
from dspy.utils.constants import IS_TYPE_UNDEFINED
from pydantic import BaseModel, ConfigDict, Field, JsonValue, TypeAdapter
from pydantic import ValidationError as PydanticError
from pydantic_core import PydanticSerializationError, to_jsonable_python

from snakepit_bridge.dspy_integration.field_names import find_reserved
from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.field_types import format_type, parse_type
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.protocol.validation_text import to_plain_text

Limit = Literal["gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "allow_inf_nan"]
_LIMITS: tuple[Limit, ...] = ("gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "allow_inf_nan")
_MAX_PATH = 200
_MAX_TEXT = 20_000


class FieldSpec(BaseModel):
    """One input or output field.

    Attributes:
        constraints: DSPy's text about the limits in the prompt.
        limits: the limits themselves, as pydantic's ``Field`` takes them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(max_length=100)
    direction: Literal["input", "output"]
    type: str = "str"
    # Whether the user wrote the type or left it open, which DSPy distinguishes.
    typed: bool = True
    desc: str | None = None
    prefix: str | None = None
    constraints: str | None = None
    limits: dict[Limit, JsonValue] = Field(default_factory=dict)
    has_default: bool = False
    default: JsonValue = None


class SignatureSpec(BaseModel):
    """A signature: its instructions and its fields in order."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "StringSignature"
    instructions: str | None = None
    fields: tuple[FieldSpec, ...] = Field(min_length=1)

    @classmethod
    def parse(cls, text: str, *, program: str) -> Self:
        """Parse ``"question, context: list[str] -> answer: float"`` without importing anything.

        Raises:
            ProgramSpecError: it isn't of that form.
        """
        sides = _split_outside_brackets(text, "->")
        if len(sides) != 2 or len(text) > _MAX_TEXT:
            raise ProgramSpecError(program, "signature", f"{text[:80]!r} isn't of the form 'inputs -> outputs'")
        inputs, outputs = ([part for part in _split_outside_brackets(side, ",") if part.strip()] for side in sides)
        if not outputs:
            raise ProgramSpecError(program, "signature", f"{text[:80]!r} needs a field after '->'")
        try:
            given = [_parse_field(part, "input", program) for part in inputs]
            return cls(fields=(*given, *(_parse_field(part, "output", program) for part in outputs)))
        except PydanticError as exc:
            raise spec_error(exc, program, within="signature") from None

    @classmethod
    def of(cls, signature: Any, *, program: str) -> Self:
        """Return the spec of a DSPy signature class.

        Raises:
            ProgramSpecError: a field's type can't be imported by its name, or its default has no JSON form.
        """
        fields = [_describe_field(name, info, program) for name, info in signature.fields.items()]
        return cls(name=signature.__name__, instructions=signature.instructions, fields=tuple(fields))

    def check_names(self, module_name: str = "", *, program: str) -> None:
        """Check that no field has a name that DSPy or the module reserves.

        Raises:
            ProgramSpecError: a name is reserved; lists the reserved names.
        """
        inputs = (field.name for field in self.fields if field.direction == "input")
        outputs = (field.name for field in self.fields if field.direction == "output")
        found = find_reserved(module_name, inputs, outputs)
        if found is not None:
            name, problem = found
            raise ProgramSpecError(program, f"signature.{name}", f"a field can't be named '{name}': {problem}")

    def build(self, allowed: AllowedImports, *, program: str) -> Any:
        """Return the DSPy signature class.

        Raises:
            ProgramSpecError: a field's name is reserved or its type isn't allowed.
        """
        self.check_names(program=program)
        fields: dict[str, tuple[Any, Any]] = {}
        for field in self.fields:
            where = f"signature.{field.name}"
            if not field.name.isidentifier() or field.name.startswith("_"):
                raise ProgramSpecError(program, where, f"a field can't be named '{field.name}'")
            if field.name in fields:
                raise ProgramSpecError(program, where, "two fields have this name")
            kind = parse_type(field.type, allowed, program=program, where=where)
            fields[field.name] = (kind, _build_field_info(field, _parse_default(field, kind, program, where)))
        try:
            return _make_signature(fields, self.instructions, signature_name=self.name)
        except Exception as exc:
            # DSPy and pydantic raise various errors for signatures that they can't build.
            raise ProgramSpecError(program, "signature", f"DSPy can't build it: {exc}") from exc


# DSPy's metaclass handles this call, which its types don't declare.
_make_signature = cast(Callable[..., Any], dspy.Signature)


def spec_error(exc: PydanticError, program: str, within: str = "") -> ProgramSpecError:
    """Return the error for pydantic's deepest finding, with the path of the invalid part."""
    first = max(exc.errors(include_url=False, include_input=False), key=lambda error: len(error["loc"]))
    inner = first.get("ctx", {}).get("error")
    steps = [within, *(str(step) for step in first["loc"])]
    where = ".".join(step for step in steps if step) or "the whole"
    if isinstance(inner, ProgramSpecError):
        return ProgramSpecError(program, inner.where, inner.problem)
    return ProgramSpecError(
        program, where if len(where) <= _MAX_PATH else f"…{where[-_MAX_PATH:]}", to_plain_text(first["msg"])
    )


def _parse_default(field: FieldSpec, kind: Any, program: str, where: str) -> Any:
    """Return the default converted to its field's type; DSPy accepts None anywhere."""
    if not field.has_default or field.default is None:
        return field.default
    try:
        return TypeAdapter(kind).validate_python(field.default)
    except PydanticError as exc:
        raise spec_error(exc, program, within=f"{where}.default") from None


def _build_field_info(field: FieldSpec, default: Any) -> Any:
    default_argument: dict[str, Any] = {"default": default} if field.has_default else {}
    make = dspy.InputField if field.direction == "input" else dspy.OutputField
    info = make(**default_argument, **field.limits)
    # Set directly: DSPy's own arguments warn about a prefix and would generate the constraints' text again.
    texts = {"desc": field.desc, "prefix": field.prefix, "constraints": field.constraints}
    info.json_schema_extra.update({key: text for key, text in texts.items() if text is not None})
    if not field.typed:
        info.json_schema_extra[IS_TYPE_UNDEFINED] = True
    _order_keys(field, info.json_schema_extra)
    return info


def _order_keys(field: FieldSpec, extra: dict[str, Any]) -> None:
    """Order the keys of a field's description as DSPy does, since MIPROv2 shows them to an LM."""
    described = () if field.desc == f"${{{field.name}}}" else ("desc",)
    order = (IS_TYPE_UNDEFINED, *described, "__dspy_field_type", "prefix", "desc")
    ordered = {key: extra[key] for key in order if key in extra} | extra
    extra.clear()  # in place: pydantic has a second reference
    extra.update(ordered)


def _describe_field(name: str, info: Any, program: str) -> FieldSpec:
    extra, where = info.json_schema_extra or {}, f"signature.{name}"
    kind = format_type(info.annotation, program=program, where=where)
    has_default = not info.is_required()
    try:
        return FieldSpec(
            name=name,
            direction=extra["__dspy_field_type"],
            type=kind,
            typed=not extra.get(IS_TYPE_UNDEFINED, False),
            limits={key: getattr(item, key) for item in info.metadata for key in _LIMITS if hasattr(item, key)},
            has_default=has_default,
            default=to_jsonable_python(info.get_default(call_default_factory=True)) if has_default else None,
            **{key: extra.get(key) for key in ("desc", "prefix", "constraints")},
        )
    except PydanticError as exc:
        raise spec_error(exc, program, within=where) from None
    except PydanticSerializationError as exc:
        raise ProgramSpecError(program, f"{where}.default", f"it has no JSON form: {exc}") from exc


def _parse_field(text: str, direction: Literal["input", "output"], program: str) -> FieldSpec:
    declaration, *default = _split_outside_brackets(text, "=")
    name, colon, kind = declaration.partition(":")
    if not name.strip().isidentifier() or len(default) > 1:
        raise ProgramSpecError(program, "signature", f"{text.strip()[:80]!r} isn't a field like name or name: type")
    # DSPy accepts any value for an input without a type; an output without one is a string.
    typed = bool(colon) or direction == "output"
    try:
        value: Any = ast.literal_eval(default[0].strip()) if default else None
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        raise ProgramSpecError(program, f"signature.{name.strip()}", "its default isn't a plain value") from None
    return FieldSpec(
        name=name.strip(),
        direction=direction,
        type=kind.strip() if colon else "str",
        typed=typed,
        has_default=bool(default),
        default=value,
    )


def _split_outside_brackets(text: str, separator: str) -> list[str]:
    """Split a text at separators outside brackets and quotes, as Python parses them."""
    parts, depth, quote, start, index = list[str](), 0, "", 0, 0
    while index < len(text):
        char = text[index]
        if quote:
            index += char == "\\"  # an escaped quote doesn't end the string
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif depth == 0 and text.startswith(separator, index):
            parts.append(text[start:index])
            start = index + len(separator)
            index = start - 1
        else:
            depth += (char in "[({") - (char in "])}")
        index += 1
    return [*parts, text[start:]]
