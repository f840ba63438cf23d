"""A program's inputs: the input fields of DSPy's own modules, and the parameters of a user's ``forward``.

A user's module may fetch, rename or preset what its predictors need, so their fields don't tell its inputs. The
signature of the method that a call runs does; what that leaves open isn't checked. A module that passes its inputs on
to another, such as BestOfN, takes what that takes.
"""

from __future__ import annotations

import collections.abc
import copy
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, cast

import dspy
from dspy.utils.constants import IS_TYPE_UNDEFINED
from pydantic import TypeAdapter
from pydantic.fields import FieldInfo

from snakepit_bridge.dspy_integration.ensemble import Ensemble
from snakepit_bridge.dspy_integration.knn_few_shot import KNNFewShot
from snakepit_bridge.dspy_integration.module_tree import find_entry_points, predictors
from snakepit_bridge.exceptions import InputError
from snakepit_bridge.programs.codec import decode_inputs, revive_inputs

# DSPy's wrapper of every call has a parameter of this name, so an input of this name must be passed by position.
_DSPY_PARAMETER = "instance"
# pydantic makes lazy objects of these, which can be iterated only once.
_LAZY_TYPES = (
    collections.abc.Iterable, collections.abc.Iterator, collections.abc.Generator, collections.abc.AsyncIterable,
    collections.abc.AsyncIterator, collections.abc.AsyncGenerator, collections.abc.Callable,
)  # fmt: skip
_ATOMS = (type(None), bool, int, float, complex, str, bytes, type)
_Parameter = inspect.Parameter


class _HasInputs(Protocol):
    input_fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class ProgramInputs:
    """The inputs of a program.

    Attributes:
        fields: input to DSPy's description of it.
        is_open: whether it may take others as well.
        hints: fields of its predictor for inputs whose type the program leaves open: a JSON object is converted if it
            fits, and passed unchanged if it doesn't.
        positional: the inputs that are passed by position, in order.
        spread: the input whose items are passed as ``*args``; empty if there is none.
        presets: mutable defaults, copied for each call.
        needed: required parameters of a decorated ``forward``, which its decorator might provide, and of one of DSPy's.
    """

    fields: Mapping[str, Any] = field(default_factory=dict[str, Any])
    is_open: bool = True
    hints: Mapping[str, Any] = field(default_factory=dict[str, Any])
    positional: tuple[str, ...] = ()
    spread: str = ""
    presets: Mapping[str, Any] = field(default_factory=dict[str, Any])
    needed: tuple[str, ...] = ()

    @classmethod
    def of(cls, module: Any) -> ProgramInputs:
        """Return the inputs of a module."""
        entries = find_entry_points(module)
        if not entries:
            receivers = _find_receivers(module)
            if receivers:
                return cls.of(receivers[0]) if len(receivers) == 1 else cls()
            fields = _find_task_fields(module)
            return cls(needed=_find_own_needed(module)) if fields is None else cls(fields, is_open=False)
        inputs = _read_function(entries[0], module)
        # An overridden `__call__` that accepts anything passes it on, perhaps with more.
        if len(entries) > 1 and inputs.is_open and not inputs.fields:
            inner = _read_function(entries[1], module)
            return cls(hints=inner.hints, needed=inner.needed or tuple(inner.required))
        return inputs

    @property
    def required(self) -> list[str]:
        """The inputs that must be given."""
        return [name for name, info in self.fields.items() if info.is_required()]

    def decode(self, program: str, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """Return the inputs in the types of the program's fields: a dict for an image becomes the image.

        Raises:
            InputError: one is unknown, missing, of another type or beyond its limits; names it.
        """
        inputs = revive_inputs(program, inputs)
        if not self.is_open:
            known = dict(inputs)
        else:
            known = {name: value for name, value in inputs.items() if name in self.fields}
        decoded = {**inputs, **decode_inputs(program, self.fields, known)}
        return {name: self._restore(program, name, value) for name, value in decoded.items()}

    def to_arguments(self, inputs: Mapping[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Return the inputs as positional and keyword arguments of a call."""
        named = {**copy.deepcopy({name: v for name, v in self.presets.items() if name not in inputs}), **inputs}
        placed: list[Any] = []
        for name in self.positional:
            if name not in named:
                break
            placed.append(named.pop(name))
        if self.spread in named:
            placed += named.pop(self.spread)
        return placed, named

    def missing_input_error(self, program: str, inputs: Mapping[str, Any]) -> InputError | None:
        """Return the error for a missing input of a decorated ``forward``, to explain a failed call; else None."""
        name = next((name for name in self.needed if name not in inputs), None)
        return None if name is None else InputError(program, name, "it is missing", self.needed)

    def _restore(self, program: str, name: str, value: Any) -> Any:
        if name not in self.hints or not isinstance(value, (dict, list)):
            return value
        try:
            return decode_inputs(program, {name: self.hints[name]}, {name: value})[name]
        except InputError:
            return cast(Any, value)


def _read_function(function: Callable[..., Any], module: Any) -> ProgramInputs:
    """Return the inputs of a function; open ones if it can't be inspected."""
    try:
        outer = inspect.signature(function, follow_wrapped=False)
        inner = inspect.signature(function)
        types = _read_annotations(function)
    except (TypeError, ValueError):
        return ProgramInputs()
    parameters = outer.parameters.values()
    is_open = any(each.kind is _Parameter.VAR_KEYWORD for each in parameters)
    accepted = [each for each in parameters if each.kind is not _Parameter.VAR_KEYWORD]
    spread = next((each.name for each in accepted if each.kind is _Parameter.VAR_POSITIONAL), "")
    if spread and is_open:  # it passes everything on, so the list has no name of its own
        accepted, spread = [each for each in accepted if each.name != spread], ""
    fields = {each.name: _build_field(each, types) for each in accepted}
    below = _find_predictor_fields(module)
    return ProgramInputs(
        fields,
        is_open,
        {name: below[name] for name in (*fields, *inner.parameters) if name in below and _is_untyped(fields.get(name))},
        _find_positional(accepted, has_spread=bool(spread)),
        spread,
        {each.name: each.default for each in accepted if not _is_immutable(each.default)},
        _find_needed(inner) if is_open and inner != outer else (),
    )


def _build_field(parameter: inspect.Parameter, types: Mapping[str, Any]) -> Any:
    given = parameter.default is not _Parameter.empty or parameter.kind is _Parameter.VAR_POSITIONAL
    default: dict[str, Any] = {"default": None if parameter.default is _Parameter.empty else parameter.default}
    annotation = types.get(parameter.name, _Parameter.empty)
    if parameter.kind is _Parameter.VAR_POSITIONAL:
        annotation = list[Any] if annotation is _Parameter.empty else list[annotation]
    if annotation is _Parameter.empty or not _can_check(annotation):
        untyped = FieldInfo(annotation=Any, **(default if given else {}))
        untyped.json_schema_extra = {IS_TYPE_UNDEFINED: True}
        return untyped
    info = FieldInfo.from_annotation(annotation)
    if given:
        info.default = default["default"]
    return info


def _is_untyped(info: Any | None) -> bool:
    return info is None or bool((info.json_schema_extra or {}).get(IS_TYPE_UNDEFINED))


def _read_annotations(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the annotations of a function, without those that can't be resolved."""
    bare: Any = getattr(function, "__func__", function)
    bare = bare if inspect.isroutine(bare) else vars(type(bare)).get("__call__", bare)
    bare = getattr(bare, "__func__", bare)
    try:
        return typing.get_type_hints(bare, include_extras=True)
    except Exception:  # noqa: BLE001 (evaluating a user's annotation may raise anything)
        return {name: kind for name, kind in getattr(bare, "__annotations__", {}).items() if not isinstance(kind, str)}


def _can_check(annotation: Any) -> bool:
    if (typing.get_origin(annotation) or annotation) in _LAZY_TYPES:
        return False
    try:
        TypeAdapter(annotation)
    except Exception:  # noqa: BLE001 (pydantic raises various errors for unknown types)
        return False
    return True


def _find_positional(accepted: list[inspect.Parameter], *, has_spread: bool) -> tuple[str, ...]:
    """Return the parameters up to the last one that can't be passed by name."""
    kinds = (_Parameter.POSITIONAL_ONLY, _Parameter.POSITIONAL_OR_KEYWORD)
    placed = [each for each in accepted if each.kind in kinds]
    last = max(
        (
            at
            for at, each in enumerate(placed)
            if has_spread or each.kind is _Parameter.POSITIONAL_ONLY or each.name == _DSPY_PARAMETER
        ),
        default=-1,
    )
    return tuple(each.name for each in placed[: last + 1])


def _find_needed(signature: inspect.Signature) -> tuple[str, ...]:
    several = (_Parameter.VAR_KEYWORD, _Parameter.VAR_POSITIONAL)
    return tuple(
        each.name
        for each in signature.parameters.values()
        if each.kind not in several and each.default is _Parameter.empty
    )


def _find_own_needed(module: Any) -> tuple[str, ...]:
    """Return what a module of DSPy's requires that is no field of its signature: the completions to compare."""
    return ("completions",) if isinstance(module, dspy.MultiChainComparison) else ()


def _is_immutable(value: Any) -> bool:
    if isinstance(value, (tuple, frozenset)):
        return all(map(_is_immutable, cast(tuple[Any, ...], value)))
    return isinstance(value, _ATOMS) or not isinstance(value, (list, dict, set, bytearray, collections.abc.Sized))


def _find_receivers(module: Any) -> list[Any]:
    """Return the modules to which one of DSPy's passes its inputs on unchanged, each once."""
    if isinstance(module, KNNFewShot):
        return [module.student]
    if isinstance(module, (dspy.BestOfN, dspy.Refine)):
        return [module.module]
    programs: list[Any] = module.programs if isinstance(module, Ensemble) else []
    return list({id(program): program for program in programs}.values())


def _find_task_fields(module: Any) -> Mapping[str, Any] | None:
    """Return the input fields of the task itself; agents keep its signature besides those of their predictors."""
    own = getattr(module, "signature", None)
    below = predictors(module)
    # The completions that MultiChainComparison compares aren't fields of its predictor.
    if own is None and len(below) == 1 and not isinstance(module, dspy.MultiChainComparison):
        own = below[0][1].signature
    return None if own is None else dict(cast(_HasInputs, own).input_fields)


def _find_predictor_fields(module: Any) -> Mapping[str, Any]:
    """Return the input fields of a user's only predictor, which hint at the types of inputs of the same name."""
    below = predictors(module)
    return dict(cast(Any, below[0][1]).signature.input_fields) if len(below) == 1 else {}
