"""ProgramSpec: a DSPy program as JSON, never as code, named by its content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic import ValidationError as PydanticError

from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.signature_spec import SignatureSpec

MAX_SPEC_BYTES = 1 << 20

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
# What DSPy's Predict puts into its state; it sets whatever it finds there as attributes, so nothing else may pass.
_STATE_KEYS = frozenset({"traces", "train", "demos", "signature", "fields", "lm"})


class ModuleVariable(BaseModel):
    """A module type that a session variable decides, among the ones that the program allows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variable: str
    allowed: tuple[str, ...] = Field(default=("Predict", "ChainOfThought"), min_length=1, max_length=50)


class ProgramSpec(BaseModel):
    """Everything from which a worker rebuilds a DSPy program.

    Attributes:
        module: a registered module type (``ChainOfThought``), a variable that names one, or the import path
            (``package.module:Class``) of a class in an allowed package.
        signature: the task, as text (``"question -> answer: float"``) or field by field; a class of one's own may have
            none.
        arguments: further constructor arguments. One set serves all modules that a variable may choose.
        tools: import paths of functions in allowed packages, for modules that take tools.
        bindings: module attribute to session variable.
        config: predictor path to LM keywords that hold unless a variable says otherwise.
        state: what DSPy's ``dump_state`` gives: demos and optimised instructions.
        lm: LM profile; the fleet's default if none is named.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    module: str | ModuleVariable
    signature: SignatureSpec | None = None
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    tools: tuple[str, ...] = Field(default=(), max_length=100)
    bindings: dict[str, str] = Field(default_factory=dict)
    config: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    state: dict[str, JsonValue] | None = None
    lm: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_signature(cls, said: Any) -> Any:
        if isinstance(said, dict) and isinstance(cast(dict[str, Any], said).get("signature"), str):
            return {**said, "signature": SignatureSpec.parse(said["signature"], program="(unnamed)")}
        return cast(Any, said)

    @classmethod
    def parse(cls, said: Mapping[str, Any] | str | bytes, *, program: str) -> Self:
        """Reads a spec from JSON text or from its parsed form.

        Raises:
            ProgramSpecError: it is too large, isn't JSON, or a part isn't what it must be; says which part.
        """
        if isinstance(said, (str, bytes)):
            if len(said) > MAX_SPEC_BYTES:
                raise ProgramSpecError(program, "the whole", f"{len(said)} bytes are more than {MAX_SPEC_BYTES}")
            try:
                said = cast(Mapping[str, Any], json.loads(said))
            except (ValueError, RecursionError) as broken:
                raise ProgramSpecError(program, "the whole", f"it isn't JSON: {broken}") from broken
        try:
            spec = cls.model_validate(said)
        except PydanticError as refused:
            first = refused.errors(include_url=False)[0]
            where = ".".join(str(step) for step in first["loc"]) or "the whole"
            raise ProgramSpecError(program, where, first["msg"]) from None
        except ProgramSpecError as refused:
            raise ProgramSpecError(program, refused.where, refused.problem) from None
        spec.check_state(program)
        return spec

    @property
    def module_names(self) -> tuple[str, ...]:
        """Every module type that this program may run as."""
        return (self.module,) if isinstance(self.module, str) else self.module.allowed

    def encode(self) -> bytes:
        """Returns the canonical JSON, whose digest names the spec."""
        said = self.model_dump(mode="json", exclude_defaults=True) | {"format": self.format}
        return json.dumps(said, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()

    def check_state(self, program: str) -> None:
        """Refuses a saved state that holds anything but what DSPy itself saves.

        Raises:
            ProgramSpecError: names the part.
        """
        if self.state and not isinstance(self.module, str):
            raise ProgramSpecError(program, "state", "it fits one module type; it can't go with a module variable")
        for path, saved in (self.state or {}).items():
            if not isinstance(saved, dict) or saved.keys() - _STATE_KEYS or saved.get("lm") is not None:
                raise ProgramSpecError(program, f"state.{path}", f"it may hold only {', '.join(sorted(_STATE_KEYS))}, no LM")


def digest(encoded: bytes) -> str:
    """Returns the content address of an encoded spec, as sha256 in hex."""
    return hashlib.sha256(encoded).hexdigest()


def check_name(program: str) -> str:
    """Returns a program's name if it can be one.

    Raises:
        ProgramSpecError: it has other characters than letters, digits, ``_``, ``.`` and ``-``, or too many.
    """
    if not _NAME.fullmatch(program):
        raise ProgramSpecError(program[:100], "the name", "it must be 1 to 100 letters, digits, '_', '.' or '-'")
    return program
