"""Bindings: which attribute of a module follows which variable, and how a value takes effect in DSPy.

Setting ``module.temperature`` changes nothing in the LM call, since DSPy reads ``predictor.config``, ``predictor.lm`` and
``predictor.signature``. So a binding names a *target*, and applying it puts the value where DSPy reads it, in every
predictor below. It is always applied to a fresh :func:`~.structure.clone` of the pristine module: two calls under
different revisions share nothing, and instructions don't pile up.

An attribute may carry the path of a nested predictor or module: ``temperature``, ``extract.temperature``.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import dspy
from dspy.primitives.base_module import BaseModule

from snakepit_bridge.dspy_integration import keywords
from snakepit_bridge.dspy_integration.structure import clone, parts, predictors
from snakepit_bridge.exceptions import BindingError, ValidationError
from snakepit_bridge.lm import LMProfiles, other_model

if TYPE_CHECKING:
    from collections.abc import Iterable

MODEL = ("lm", "model")
INSTRUCTIONS = "instructions"

# Plain attributes that exist on DSPy's modules but steer nothing once the module is built.
_INERT = frozenset({"stage", "last_key", "M"})


class Bound(NamedTuple):
    """One bound value, and the variable that it came from."""

    variable: str
    value: Any


@dataclass(frozen=True, slots=True)
class LMScope:
    """Where a bound model is looked up: in the profiles if there are any, else beside the ambient LM."""

    profiles: LMProfiles | None = None
    ambient: dspy.LM | None = None

    def choose(self, bound: Bound) -> dspy.LM:
        """Returns the LM that the value names.

        Raises:
            ValidationError: it names nothing that is declared or reachable.
        """
        if not isinstance(bound.value, str):
            raise ValidationError(bound.variable, repr(bound.value), "it is bound to the model and must be a text")
        if self.profiles:
            return self.profiles.choose(bound.value, variable=bound.variable).lm
        if self.ambient is None:
            raise ValidationError(
                bound.variable, repr(bound.value), "neither LM profiles nor dspy.configure(lm=…) say where to find it"
            )
        return other_model(self.ambient, bound.value, variable=bound.variable)


def split(attribute: str) -> tuple[str, str]:
    """Splits ``extract.temperature`` into the path ``extract`` and the target ``temperature``."""
    path, _, target = attribute.rpartition(".")
    return path, target


def part_at(module: Any, path: str) -> Any | None:
    """Returns the module or predictor at a path, or None."""
    if not path:
        return module
    return next((part for name, part in parts(module, BaseModule) if name == path), None)


def bindable(module: Any) -> list[str]:
    """Returns what can be bound on a module, without paths."""
    here = [*_live(module)]
    below = predictors(module)
    if below:
        here += [*keywords.RULES, *MODEL]
    if _instructions_scope(module, below) is not None:
        here.append(INSTRUCTIONS)
    return sorted(set(here))


def check_bindable(module: Any, attribute: str) -> None:
    """Refuses a binding that could not take effect.

    Raises:
        BindingError: the module has no such part or the part no such target; it lists what there is.
    """
    if not isinstance(module, BaseModule):
        return  # not a DSPy module: its attributes are its own business
    path, target = split(attribute)
    kind = type(module).__name__
    part = part_at(module, path)
    if part is None:
        nested = sorted(name for name, _ in parts(module, BaseModule) if name)
        raise BindingError(kind, attribute, f"it has no part '{path}', only: {', '.join(nested) or 'none'}")
    if target not in bindable(part):
        paths = [f"{name}.{INSTRUCTIONS}" for name, _ in predictors(part) if name]
        problem = "DSPy would ignore it there"
        if target == INSTRUCTIONS:
            problem = f"it has several predictors, name one: {', '.join(paths)}"
        raise BindingError(kind, attribute, problem, bindable(part))


def bind_values(module: Any, values: Mapping[str, Bound], scope: LMScope) -> Any:
    """Returns a copy of the module on which the values take effect; the module itself stays as it is.

    Args:
        module: the pristine module.
        values: attribute (with path) to value.
        scope: where a bound model is looked up.

    Raises:
        ValidationError: a target refuses its value.
        BindingError: a target doesn't exist on this module.
    """
    twin = clone(module)
    apply(twin, values, scope)
    return twin


def apply(twin: Any, values: Mapping[str, Bound], scope: LMScope) -> None:
    """Puts the values into a clone that nobody else holds yet; raises as :func:`bind_values` does."""
    for attribute in _in_order(values):
        check_bindable(twin, attribute)
        path, target = split(attribute)
        _put(part_at(twin, path), target, values[attribute], scope)


def _in_order(attributes: Iterable[str]) -> list[str]:
    """The model first, since the name of the token limit depends on it; module-wide before a predictor's own."""
    return sorted(attributes, key=lambda name: (split(name)[1] not in MODEL, name.count("."), name))


def _put(part: Any, target: str, bound: Bound, scope: LMScope) -> None:
    if not isinstance(part, BaseModule):
        setattr(part, target, bound.value)
    elif target in MODEL:
        lm = scope.choose(bound)
        for _, predictor in predictors(part):
            predictor.lm = lm
    elif target == INSTRUCTIONS:
        _instruct(part, bound)
    elif target in keywords.RULES:
        _configure(part, target, bound, scope)
    else:
        setattr(part, target, _alike(getattr(part, target), target, bound))


def _configure(part: Any, keyword: str, bound: Bound, scope: LMScope) -> None:
    value = keywords.check(keyword, bound.variable, bound.value)
    for _, predictor in predictors(part):
        name = _spelt(keyword, predictor.lm or scope.ambient)
        rest = {key: kept for key, kept in predictor.config.items() if key != name}
        # A new dict each time: the old one belongs to the pristine module.
        predictor.config = rest if value is None else {**rest, name: value}


def _spelt(keyword: str, lm: Any) -> str:
    """Reasoning models have their own name for the token limit, and DSPy ignores the usual one on them."""
    reasoning = keyword == "max_tokens" and "max_completion_tokens" in getattr(lm, "kwargs", {})
    return "max_completion_tokens" if reasoning else keyword


def _instruct(part: Any, bound: Bound) -> None:
    if not isinstance(bound.value, str) or not bound.value.strip():
        raise ValidationError(bound.variable, repr(bound.value), "it is bound to the instructions and must be a text")
    below = predictors(part)
    base = _instructions_scope(part, below)
    for _, predictor in below:
        predictor.signature = _instructed(predictor.signature, base or "", bound.value)


def _instructions_scope(part: Any, below: list[tuple[str, dspy.Predict]]) -> str | None:
    """Returns the user's own instructions within a module, or None where that can't be told.

    A lone predictor's are all of them. ReAct and its kin build each predictor's from the module's signature and words of
    their own; there only the user's words are replaced.
    """
    if len(below) == 1:
        return cast(str, below[0][1].signature.instructions)
    own = getattr(part, "signature", None)
    return cast(str, own.instructions) if below and own is not None else None


# Building a signature class takes 0.3 ms, and a fleet applies the same few texts over and over.
@functools.lru_cache(maxsize=1024)
def _instructed(signature: Any, base: str, text: str) -> Any:
    written: str = signature.instructions
    if base and written.startswith(base):
        return signature.with_instructions(text + written.removeprefix(base))
    return signature.with_instructions(f"{text}\n\n{written}")


def _live(part: Any) -> list[str]:
    """Returns the plain attributes that a module's own ``forward`` reads, such as ``max_iters`` of ReAct."""
    if not isinstance(part, BaseModule):
        return []
    return [
        name
        for name, value in vars(part).items()
        if not name.startswith("_")
        and name not in _INERT
        and name not in keywords.RULES
        and name not in (*MODEL, INSTRUCTIONS)
        and (value is None or isinstance(value, (bool, int, float, str)))
    ]


def _alike(current: Any, target: str, bound: Bound) -> Any:
    """Refuses a value of another type than the attribute has: the module would fail on it later, or ignore it."""
    value = bound.value
    if isinstance(current, float) and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if current is not None and type(value) is not type(current):
        wanted = type(current).__name__
        raise ValidationError(bound.variable, repr(value), f"it is bound to {target}, which is of type {wanted}")
    if target == "max_iters" and (not isinstance(value, int) or value < 1):
        raise ValidationError(bound.variable, repr(value), "it is bound to max_iters, which counts from 1 on")
    return value
