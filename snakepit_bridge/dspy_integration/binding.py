"""Bindings: which attribute of a module follows which variable, and how a value takes effect in DSPy.

A binding names a *target* (:mod:`~.targets`), and applying it puts the value where DSPy reads it, in every predictor
below. It is always applied to a fresh :func:`~.module_tree.clone` of the unbound module: two calls under different
revisions share nothing, and instructions don't accumulate.

An attribute may carry the path of a nested predictor or module: ``temperature``, ``extract.temperature``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import dspy

from snakepit_bridge.dspy_integration.knn_few_shot import KNNFewShot
from snakepit_bridge.dspy_integration.module_tree import PARTS, cache_structure, clone, part_at, parts, predictors
from snakepit_bridge.dspy_integration.targets import keywords
from snakepit_bridge.dspy_integration.targets.keywords import ANY_ENGINE, REFUSED
from snakepit_bridge.dspy_integration.targets.model import BoundValue, LMScope
from snakepit_bridge.dspy_integration.targets.target import (
    INSTRUCTIONS,
    MODEL,
    Target,
    find_target,
    is_readable_target,
    iter_targets,
)
from snakepit_bridge.exceptions import BindingError, ValidationError
from snakepit_bridge.variables.variable import check_variable_name

__all__ = [
    "INSTRUCTIONS",
    "MODEL",
    "BoundValue",
    "LMScope",
    "apply_values",
    "bind_values",
    "bindable",
    "check_bindable",
    "check_binding",
    "part_at",
    "is_readable",
    "split_attribute",
]

# Targets with a dot in their own name: desc.answer, config.safety_settings.
_DOTTED_TARGETS = ("desc", "config")


def split_attribute(attribute: str) -> tuple[str, str]:
    """Split ``extract.temperature`` into the path ``extract`` and the target ``temperature``."""
    path, _, target = attribute.rpartition(".")
    above, _, last = path.rpartition(".")
    return (above, f"{last}.{target}") if last in _DOTTED_TARGETS else (path, target)


def bindable(module: Any) -> list[str]:
    """Return the names that can be bound on a module, without paths."""
    return sorted({name for target in iter_targets() for name in target.offers(module)})


def is_readable(attribute: str) -> bool:
    """Check whether a bound value can be read as that attribute of the module."""
    return is_readable_target(split_attribute(attribute)[1])


def read_attribute(module: Any, attribute: str) -> tuple[Any, ...]:
    """Return the module's own value of a bound attribute, as a 1-tuple; () where it has none."""
    path, name = split_attribute(attribute)
    part = part_at(module, path)
    return (getattr(part, name),) if is_readable(attribute) and hasattr(part, name) else ()


def expose_value(module: Any, attribute: str, value: Any) -> None:
    """Set a bound value on the module to be read, as ``module.temperature``; DSPy uses that of each call's copy."""
    path, name = split_attribute(attribute)
    if is_readable(attribute):
        setattr(part_at(module, path), name, value)


def restore_attribute(module: Any, attribute: str, before: tuple[Any, ...] | None) -> None:
    """Undo :func:`expose_value`: restore the attribute's own value, or remove it."""
    path, name = split_attribute(attribute)
    part = part_at(module, path)
    if before is None or part is None or not is_readable(attribute):
        return
    if before:
        setattr(part, name, before[0])
    elif name in vars(part):
        delattr(part, name)


def check_bindable(module: Any, attribute: str) -> None:
    """Check that a binding would take effect.

    Raises:
        BindingError: the module has no such part or the part no such target; the message lists those that exist.
    """
    _resolve_target(module, attribute)


def check_binding(module: Any, attribute: str, variable: str) -> None:
    """Check that a new binding would take effect; one that is stored may have any name.

    Raises:
        BindingError: the attribute can't be bound, or a variable can't have the name.
    """
    check_bindable(module, attribute)
    try:
        check_variable_name(variable)
    except ValidationError as exc:
        raise BindingError(type(module).__name__, attribute, str(exc).rstrip(".")) from exc


@dataclass(frozen=True, slots=True)
class _ResolvedTarget:
    """A part of a module and the target of an attribute there; None if the part isn't one of DSPy's modules."""

    attribute: str
    part: Any
    name: str
    depth: int
    target: Target | None

    @property
    def order(self) -> tuple[int, int, str]:
        """Sort key: dependencies first, as the token limit's name depends on the model; module-wide before nested."""
        return (self.target.rank if self.target is not None else 0, self.depth, self.attribute)


def _resolve_target(module: Any, attribute: str) -> _ResolvedTarget:
    path, name = split_attribute(attribute)
    kind = type(module).__name__
    part = part_at(module, path)
    if part is None:
        nested = sorted(name for name, _ in parts(module, PARTS) if name)
        raise BindingError(kind, attribute, f"it has no part '{path}', only: {', '.join(nested) or 'none'}")
    target = find_target(part, name) if isinstance(part, PARTS) else None
    if target is None and isinstance(part, PARTS):
        raise BindingError(kind, attribute, _explain_unbindable(part, name), bindable(part))
    obstacle = _find_obstacle(module, path, name)
    if obstacle:
        raise BindingError(kind, attribute, obstacle, bindable(part))
    # The mixin works with any class; one that isn't a DSPy module reads its attributes itself.
    return _ResolvedTarget(attribute, part, name, path.count(".") + bool(path), target)


def bind_values(module: Any, values: Mapping[str, BoundValue], scope: LMScope) -> Any:
    """Return a copy of the module on which the values take effect; the module itself stays as it is.

    Args:
        module: the unbound module.
        values: attribute (with path) to value.
        scope: where a bound model is looked up.

    Raises:
        ValidationError: a target refuses its value.
        BindingError: a target doesn't exist on this module.
    """
    copied = clone(module)
    apply_values(copied, values, scope)
    return copied


def apply_values(copied: Any, values: Mapping[str, BoundValue], scope: LMScope) -> None:
    """Apply the values to a clone that isn't shared yet; raise as :func:`bind_values` does."""
    with cache_structure():
        for found in sorted((_resolve_target(copied, attribute) for attribute in values), key=lambda each: each.order):
            _apply_value(found, values[found.attribute], scope)


def _apply_value(found: _ResolvedTarget, bound: BoundValue, scope: LMScope) -> None:
    scope.bounds.check(found.name, bound.variable, bound.value)
    scope.bounds.check(found.name, bound.variable, keywords.parse_json_text(bound.value))
    if found.target is None:
        setattr(found.part, found.name, bound.value)
        return
    found.target.apply(found.part, found.name, bound, scope)
    if is_readable_target(found.name) and not hasattr(found.part, found.name):
        setattr(found.part, found.name, bound.value)


def _explain_unbindable(part: Any, name: str) -> str:
    below = [path for path, _ in predictors(part) if path]
    if name in (INSTRUCTIONS, "demos") and len(below) > 1:
        return f"it has several predictors, name one: {', '.join(f'{path}.{name}' for path in below)}"
    if name.startswith("config."):
        if name.removeprefix("config.") in REFUSED:
            return "a variable may not say where a request goes, who pays for it or what the adapter decides"
        return f"of LM keywords a variable may set these alone, by their exact names: {', '.join(sorted(ANY_ENGINE))}"
    return (
        "DSPy would ignore it there; if it is a target of your own, import the module that registers it "
        "(`register --import`; DSPEX_IMPORTS of workers and gateways)"
    )


def _find_obstacle(module: Any, path: str, name: str) -> str:
    """Return why a module around a nested part overrides a target on it; empty if none does."""
    if path and name == "demos" and [*_iter_wrappers(module, path, (KNNFewShot,))]:
        return "KNNFewShot chooses the demos in each call"
    if not path or name not in (*MODEL, "adapter"):
        return ""
    for wrapper in _iter_wrappers(module, path, (dspy.BestOfN, dspy.Refine)):
        kind = type(wrapper).__name__
        if name in MODEL and len(predictors(part_at(module, path))) < len(predictors(wrapper)):
            return f"{kind} runs all its predictors on one LM"
        if name == "adapter" and isinstance(wrapper, dspy.Refine):
            return f"{kind} puts its advice into the prompts with an adapter of its own; bind the adapter of {kind}"
    return ""


def _iter_wrappers(module: Any, path: str, kinds: tuple[type, ...]) -> Iterator[Any]:
    """Yield the parts of some kinds that a nested part is in."""
    inner = part_at(module, path)
    for above, wrapper in parts(module, kinds):
        if above != path and any(part is inner for _, part in parts(wrapper, PARTS)):
            yield wrapper
