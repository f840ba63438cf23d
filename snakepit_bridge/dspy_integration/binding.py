"""Bindings: which attribute of a module follows which variable, and how a value takes effect in DSPy.

A binding names a *target* (:mod:`~.targets`), and applying it puts the value where DSPy reads it, in every predictor
below. It is always applied to a fresh :func:`~.structure.clone` of the pristine module: two calls under different
revisions share nothing, and instructions don't pile up.

An attribute may carry the path of a nested predictor or module: ``temperature``, ``extract.temperature``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import dspy

from snakepit_bridge.dspy_integration.module_tree import PARTS, clone, part_at, parts, predictors, unchanging
from snakepit_bridge.dspy_integration.targets import keywords
from snakepit_bridge.dspy_integration.targets.keywords import ANY_ENGINE, REFUSED
from snakepit_bridge.dspy_integration.targets.model import Bound, LMScope
from snakepit_bridge.dspy_integration.targets.target import INSTRUCTIONS, MODEL, TARGETS, Target, can_show, target_of
from snakepit_bridge.exceptions import BindingError

__all__ = [
    "INSTRUCTIONS",
    "MODEL",
    "Bound",
    "LMScope",
    "apply",
    "bind_values",
    "bindable",
    "check_bindable",
    "part_at",
    "shows",
    "split",
]

# Targets whose own name has two steps: desc.answer, config.safety_settings.
_TWO_STEPS = ("desc", "config")


def split(attribute: str) -> tuple[str, str]:
    """Splits ``extract.temperature`` into the path ``extract`` and the target ``temperature``."""
    path, _, target = attribute.rpartition(".")
    above, _, last = path.rpartition(".")
    return (above, f"{last}.{target}") if last in _TWO_STEPS else (path, target)


def bindable(module: Any) -> list[str]:
    """Returns what can be bound on a module, without paths."""
    return sorted({name for target in TARGETS for name in target.offers(module)})


def shows(attribute: str) -> bool:
    """Tells whether a bound value can be read as that attribute of the module."""
    return can_show(split(attribute)[1])


def check_bindable(module: Any, attribute: str) -> None:
    """Refuses a binding that could not take effect.

    Raises:
        BindingError: the module has no such part or the part no such target; it lists what there is.
    """
    _find(module, attribute)


@dataclass(frozen=True, slots=True)
class _Found:
    """A part of a module and the target of an attribute there; None for what isn't one of DSPy's modules."""

    attribute: str
    part: Any
    name: str
    depth: int
    target: Target | None

    @property
    def order(self) -> tuple[int, int, str]:
        """What others depend on first, as the name of the token limit does on the model; module-wide before nested."""
        return (self.target.rank if self.target is not None else 0, self.depth, self.attribute)


def _find(module: Any, attribute: str) -> _Found:
    path, name = split(attribute)
    kind = type(module).__name__
    part = part_at(module, path)
    if part is None:
        nested = sorted(name for name, _ in parts(module, PARTS) if name)
        raise BindingError(kind, attribute, f"it has no part '{path}', only: {', '.join(nested) or 'none'}")
    target = target_of(part, name) if isinstance(part, PARTS) else None
    if target is None and isinstance(part, PARTS):
        raise BindingError(kind, attribute, _why_not(part, name), bindable(part))
    obstacle = _obstacle(module, path, name)
    if obstacle:
        raise BindingError(kind, attribute, obstacle, bindable(part))
    # A mixin may stand before any class; what isn't one of DSPy's modules reads its attributes itself.
    return _Found(attribute, part, name, path.count(".") + bool(path), target)


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
    with unchanging():
        for found in sorted((_find(twin, attribute) for attribute in values), key=lambda each: each.order):
            _put(found, values[found.attribute], scope)


def _put(found: _Found, bound: Bound, scope: LMScope) -> None:
    scope.bounds.check(found.name, bound.variable, bound.value)
    scope.bounds.check(found.name, bound.variable, keywords.parsed(bound.value))
    if found.target is None:
        setattr(found.part, found.name, bound.value)
        return
    found.target.put(found.part, found.name, bound, scope)
    if can_show(found.name) and not hasattr(found.part, found.name):
        setattr(found.part, found.name, bound.value)


def _why_not(part: Any, name: str) -> str:
    below = [path for path, _ in predictors(part) if path]
    if name in (INSTRUCTIONS, "demos") and len(below) > 1:
        return f"it has several predictors, name one: {', '.join(f'{path}.{name}' for path in below)}"
    if name.startswith("config."):
        if name.removeprefix("config.") in REFUSED:
            return "a variable may not say where a request goes, who pays for it or what the adapter decides"
        return f"of LM keywords a variable may set these alone, by their exact names: {', '.join(sorted(ANY_ENGINE))}"
    return "DSPy would ignore it there"


def _obstacle(module: Any, path: str, name: str) -> str:
    """Why a target on a nested part takes no effect because of a module around it."""
    if not path or name not in (*MODEL, "adapter"):
        return ""
    around = [part for above, part in parts(module, (dspy.BestOfN, dspy.Refine)) if above != path]
    for wrapper in around:
        inside = [part for _, part in parts(wrapper, PARTS)]
        if not any(part is part_at(module, path) for part in inside):
            continue
        kind = type(wrapper).__name__
        if name in MODEL and len(predictors(part_at(module, path))) < len(predictors(wrapper)):
            return f"{kind} runs all its predictors on one LM"
        if name == "adapter" and isinstance(wrapper, dspy.Refine):
            return f"{kind} puts its advice into the prompts with an adapter of its own; bind the adapter of {kind}"
    return ""
