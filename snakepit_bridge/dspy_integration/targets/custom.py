"""Targets of the user's own: what a variable can be bound to besides DSPy's own attributes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import dspy

from snakepit_bridge.dspy_integration.bounds import abbreviate
from snakepit_bridge.dspy_integration.module_tree import has_part, parts
from snakepit_bridge.dspy_integration.targets.model import BoundValue, LMScope
from snakepit_bridge.dspy_integration.targets.target import CUSTOM_TARGETS, Target, is_built_in
from snakepit_bridge.exceptions import BridgeError, ValidationError

SetValue = TypeVar("SetValue", bound=Callable[[Any, Any], None])


def register_target(name: str, kinds: type | tuple[type, ...] = dspy.Predict) -> Callable[[SetValue], SetValue]:
    """Return a decorator that registers a function as a target, in this process.

    The function is called with a part and the value, for every part of these kinds in the bound module. The part is
    a fresh copy for this value, so the function may set its attributes; what they refer to is shared and must be
    replaced, not edited. A ``ValueError`` says why a value is refused; any other exception refuses it as well. A part,
    or the bound module, that has an attribute of this name gets the value there too.

        @register_target("persona")
        def set_persona(predictor, value):
            signature = predictor.signature
            predictor.signature = signature.with_instructions(f"{signature.instructions} Speak as {value}.")

    Args:
        name: what a binding names, such as ``persona``.
        kinds: the module classes on which it takes effect.

    Raises:
        ValueError: the name isn't an identifier, is one of DSPy's own targets, or is taken.
    """
    if not name.isidentifier() or name.startswith("_"):
        raise ValueError(f"A target's name must be a public identifier such as persona, not {name!r}.")
    if is_built_in(name):
        raise ValueError(f"'{name}' is a target of DSPy's own modules; choose another name.")
    if name in CUSTOM_TARGETS:
        raise ValueError(f"Another target is called '{name}' already; choose another name.")

    def register(set_value: SetValue) -> SetValue:
        def offers(part: Any) -> Iterable[str]:
            return (name,) if has_part(part, kinds) else ()

        def apply(part: Any, _: str, bound: BoundValue, scope: LMScope) -> None:
            if name in vars(part):  # a user's module that reads it as well
                setattr(part, name, bound.value)
            for _, each in parts(part, kinds):
                _set(set_value, each, name, bound)

        CUSTOM_TARGETS[name] = Target(name.__eq__, offers, apply, rank=_AFTER_BUILT_IN)
        return set_value

    return register


# A target may change what the built-in ones have set, such as the instructions.
_AFTER_BUILT_IN = 3


def unregister_target(name: str) -> None:
    """Remove a registered target; do nothing if there is none."""
    CUSTOM_TARGETS.pop(name, None)


def _set(set_value: Callable[[Any, Any], None], part: Any, name: str, bound: BoundValue) -> None:
    try:
        if name in vars(part):
            setattr(part, name, bound.value)
        set_value(part, bound.value)
    except BridgeError:
        raise
    except Exception as exc:
        why = str(exc) if isinstance(exc, ValueError) else f"the target raised {type(exc).__name__}: {exc}"
        raise ValidationError(bound.variable, abbreviate(bound.value), f"it is bound to {name}, and {why}") from exc
