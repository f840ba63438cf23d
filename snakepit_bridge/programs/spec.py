"""ProgramSpec: a DSPy program as JSON, never as code, named by its content."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, JsonValue, model_validator
from pydantic import ValidationError as PydanticError

from snakepit_bridge.dspy_integration.bounds import exceeds_depth
from snakepit_bridge.dspy_integration.targets.keywords import ANY_ENGINE, REFUSED
from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.signature_spec import SignatureSpec, spec_error

MAX_SPEC_BYTES = 1 << 22

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}")
# The keys of Predict's state; DSPy sets any key that it finds there as an attribute, so no others are allowed.
_STATE_KEYS = frozenset({"traces", "train", "demos", "signature", "fields", "lm"})
# LM keywords that no variable can be bound to, but a program may set. Endpoints and headers aren't allowed: they could
# send the profile's key elsewhere.
_FIXED_KEYWORDS = frozenset({"response_format", "tool_choice"})
# Names that a module's constructor may use for something of its own.
_ADAPTER_KEYWORDS = frozenset({"messages", "model", "project", "prompt", "timeout", "tools"})
# Constructor arguments that are objects of the worker's own, or have a place of their own in the spec.
NOT_DATA = frozenset({
    "callbacks", "session_context", "auto_sync", "signature", "tools", "interpreter", "interpreter_factory", "sub_lm",
    "module", "programs", "reward_fn", "reduce_fn", "vectorizer",
})  # fmt: skip
# Deeper JSON isn't safe for any parser; programs are bounded further, see `bounds`.
_MAX_JSON_DEPTH = 200


NOT_SETTABLE = frozenset({
    "signature", "demos", "config", "lm", "callbacks", "history", "traces", "train", "forward", "aforward", "acall",
})  # fmt: skip
"""Attributes that a spec doesn't set, since it has other fields for them or they are code."""


class ModuleVariable(BaseModel):
    """A module type that a session variable selects from those that the program allows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    variable: str
    allowed: tuple[str, ...] = Field(default=("Predict", "ChainOfThought"), min_length=1)


class CacheSpec(BaseModel):
    """Response cache of a program's LM calls.

    Attributes:
        ttl_s: seconds for which a response is cached.
        share: ``session`` caches separately for each session, ``fleet`` for all sessions together.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    ttl_s: int = Field(default=3_600, ge=1, le=30 * 86_400)
    share: Literal["session", "fleet"] = "session"


class ProgramSpec(BaseModel):
    """Everything that a worker needs to rebuild a DSPy program.

    Attributes:
        module: a registered module type (``ChainOfThought``), a variable that names one, or the import path
            (``package.module:Class``) of a class in an allowed package.
        signature: the task, as text (``"question -> answer: float"``) or field by field; a class of one's own may have
            none.
        arguments: further constructor arguments. One set serves all modules that a variable may choose.
        functions: constructor arguments that are functions (``reward_fn``), by import path or registered name.
        modules: constructor arguments that are modules (``module`` of BestOfN, ``programs`` of Ensemble), as specs.
        tools: functions in allowed packages by import path, or registered tools by name, for modules that take tools.
            Empty for an agent without tools; None for a module that takes none.
        bindings: module attribute to session variable.
        config: predictor path to LM keywords, which bound variables override.
        state: what DSPy's ``dump_state`` gives: demos and optimised instructions.
        escaped: whether the demos hold what JSON has no form for, such as a tuple (see ``json_values``).
        attributes: module path (``self`` for the whole) to attributes that are set after it is built: those that the
            instance had besides the ones from its constructor.
        lm: LM profile; the fleet's default if none is named.
        cache: response cache of its LM calls; without it each call is a request.
        executes_code: whether it computes or executes code rather than waiting, so that it needs a process of its own.
            For DSPy's own modules that is known.
        journal: whether what its calls are answered is recorded until its result is committed, so that they aren't made
            again when its task is delivered again. None for programs that make more than one call or use tools.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    module: str | ModuleVariable
    signature: SignatureSpec | None = None
    arguments: dict[str, JsonValue] = Field(default_factory=dict)
    functions: dict[str, str] = Field(default_factory=dict)
    modules: dict[str, ProgramSpec | tuple[ProgramSpec, ...]] = Field(default_factory=dict)
    tools: tuple[str, ...] | None = None
    bindings: dict[str, str] = Field(default_factory=dict)
    config: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    state: dict[str, JsonValue] | None = None
    escaped: bool = False
    attributes: dict[str, dict[str, JsonValue]] = Field(default_factory=dict)
    lm: str | None = None
    cache: CacheSpec | None = None
    executes_code: bool = False
    journal: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _short_signature(cls, raw: Any) -> Any:
        if isinstance(raw, dict) and isinstance(cast(dict[str, Any], raw).get("signature"), str):
            return {**raw, "signature": SignatureSpec.parse(raw["signature"], program="(unnamed)")}
        return cast(Any, raw)

    @classmethod
    def parse(cls, raw: Mapping[str, Any] | str | bytes, *, program: str) -> Self:
        """Read a spec from JSON text or from its parsed form.

        Raises:
            ProgramSpecError: it is too large, isn't JSON, or a part isn't what it must be; says which part.
        """
        if isinstance(raw, (str, bytes)):
            if len(raw) > MAX_SPEC_BYTES:
                raise ProgramSpecError(program, "the whole", f"{len(raw)} bytes are more than {MAX_SPEC_BYTES}")
            try:
                raw = cast(Mapping[str, Any], json.loads(raw))
            except (ValueError, RecursionError, MemoryError) as exc:
                raise ProgramSpecError(program, "the whole", f"it isn't JSON: {exc}") from exc
        if exceeds_depth(raw, _MAX_JSON_DEPTH):
            raise ProgramSpecError(program, "the whole", f"it is nested deeper than {_MAX_JSON_DEPTH}")
        try:
            spec = cls.model_validate(raw)
        except PydanticError as exc:
            raise spec_error(exc, program) from None
        except RecursionError:
            raise ProgramSpecError(program, "the whole", "it is nested too deeply") from None
        spec.verify(program)
        return spec

    @property
    def module_names(self) -> tuple[str, ...]:
        """Every module type that this program may run as."""
        return (self.module,) if isinstance(self.module, str) else self.module.allowed

    def encode(self) -> bytes:
        """Return the JSON whose digest names the spec; equal specs have equal texts, and values keep their order."""
        raw = self.model_dump(mode="json", exclude_defaults=True) | {"format": self.format}
        return json.dumps(_sort_names(raw), ensure_ascii=False, separators=(",", ":")).encode()

    def verify(self, program: str) -> None:
        """Check that the spec has no LM settings that belong to a profile, and no foreign state.

        Raises:
            ProgramSpecError: a part isn't allowed; names it.
        """
        for name in self.arguments.keys() & NOT_DATA:
            raise ProgramSpecError(program, f"arguments.{name}", "it isn't data; see tools, functions and modules")
        for name in self.arguments:
            if name.strip().casefold() in REFUSED and name not in _ADAPTER_KEYWORDS:
                raise ProgramSpecError(
                    program, f"arguments.{name}", "a spec may not say where a request goes or who pays"
                )
        for path, attributes in self.attributes.items():
            for name in attributes.keys() & NOT_SETTABLE:
                raise ProgramSpecError(program, f"attributes.{path}.{name}", "it has a place of its own in the spec")
        self._check_config(program)
        self._check_state(program)
        for path, inner in self.iter_nested():
            is_whole_program = (
                inner.bindings or inner.lm or inner.cache or inner.executes_code or inner.journal is not None
            )
            if is_whole_program or not isinstance(inner.module, str):
                problem = (
                    "bindings, lm, cache, executes_code, journal and a module variable belong to the whole program"
                )
                raise ProgramSpecError(program, path, problem)
            try:
                inner.verify(program)
            except ProgramSpecError as exc:
                raise ProgramSpecError(program, f"{path}.{exc.where}", exc.problem) from None

    def iter_nested(self) -> Iterator[tuple[str, ProgramSpec]]:
        """Yield the specs of the modules inside with their paths within this spec."""
        for argument, inside in self.modules.items():
            if isinstance(inside, ProgramSpec):
                yield f"modules.{argument}", inside
            else:
                yield from ((f"modules.{argument}.{number}", spec) for number, spec in enumerate(inside))

    def _check_config(self, program: str) -> None:
        for path, config in self.config.items():
            for keyword in config.keys() - ANY_ENGINE - _FIXED_KEYWORDS:
                raise ProgramSpecError(
                    program, f"config.{path}.{keyword}", f"it isn't one of: {', '.join(sorted(ANY_ENGINE))}"
                )

    def _check_state(self, program: str) -> None:
        if self.state and not isinstance(self.module, str):
            raise ProgramSpecError(program, "state", "it fits one module type; it can't go with a module variable")
        for path, saved in (self.state or {}).items():
            if not isinstance(saved, dict) or saved.keys() - _STATE_KEYS or saved.get("lm") is not None:
                raise ProgramSpecError(
                    program, f"state.{path}", f"it may hold only {', '.join(sorted(_STATE_KEYS))}, no LM"
                )


# How many levels of keys are names of the spec itself, by part; below them are the user's values.
_NAME_LEVELS = {"arguments": 1, "functions": 1, "bindings": 1, "config": 2, "state": 2, "module": 1, "cache": 1}


def _sort_names(raw: dict[str, Any]) -> dict[str, Any]:
    """Sort the names of a spec's parts, but not the keys of values such as demos, whose order the prompt shows."""
    result = {key: _sort_keys(raw[key], _NAME_LEVELS.get(key, 0)) for key in sorted(raw)}
    for argument, inside in result.get("modules", {}).items():
        result["modules"][argument] = (
            [_sort_names(inner) for inner in inside] if isinstance(inside, list) else _sort_names(inside)
        )
    if "modules" in result:
        result["modules"] = _sort_keys(result["modules"], 1)
    if result.get("signature"):
        fields = [
            {key: _sort_keys(each[key], int(key == "limits")) for key in sorted(each)}
            for each in result["signature"]["fields"]
        ]
        result["signature"] = _sort_keys(result["signature"] | {"fields": fields}, 1)
    return result


def _sort_keys(value: Any, levels: int) -> Any:
    if not levels or not isinstance(value, dict):
        return value
    found = cast("dict[str, Any]", value)
    return {key: _sort_keys(found[key], levels - 1) for key in sorted(found)}


def digest(encoded: bytes) -> str:
    """Return the content address of an encoded spec, as sha256 in hex."""
    return hashlib.sha256(encoded).hexdigest()


def check_name(program: str) -> str:
    """Return a program's name if it is valid.

    Raises:
        ProgramSpecError: the name is too long or has characters other than letters, digits, ``_``, ``.`` and ``-``.
    """
    if not _NAME.fullmatch(program):
        raise ProgramSpecError(program[:100], "the name", "it must be 1 to 100 letters, digits, '_', '.' or '-'")
    return program
