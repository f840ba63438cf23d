"""Build a module from constructor arguments that were written for any of several module classes.

A module-type variable may switch a program from one class to another, and their constructors differ: ReAct requires
tools and takes no temperature, ChainOfThought takes a temperature and no tools.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any, Protocol

from dspy.primitives.base_module import BaseModule

from snakepit_bridge.dspy_integration.compat import Flex
from snakepit_bridge.dspy_integration.context_overrides import override_keyword
from snakepit_bridge.dspy_integration.mixin import MIXIN_CLASSES, VariableAwareMixin
from snakepit_bridge.dspy_integration.module_tree import is_user_class, parts, predictors
from snakepit_bridge.dspy_integration.targets import keywords


class RegistryEntry(Protocol):
    """What construction needs of an entry of the module registry."""

    @property
    def preferred(self) -> type: ...


def construct(module_class: type, registry: Mapping[str, RegistryEntry], *args: Any, **kwargs: Any) -> Any:
    """Return a new module.

    LM keywords become the predictors' config in every class, and an argument that only other registered classes take
    is left out.

    Args:
        module_class: what to build.
        registry: the classes that the arguments may be meant for.

    Raises:
        TypeError: no registered class takes an argument, or a required one is missing.
        ValidationError: an LM keyword is out of its range.
    """
    if not issubclass(module_class, BaseModule):
        return module_class(*args, **_select_arguments(module_class, registry, kwargs))
    own_parameters = _parameter_names(module_class)
    # A user's class may give another meaning to a name that its constructor takes.
    reserved = own_parameters if is_user_class(module_class) else set[str]()
    config = {
        name: keywords.check_value(name, name, value)
        for name, value in kwargs.items()
        if name in keywords.RULES and name not in reserved
    }
    given = _select_arguments(
        module_class, registry, {name: value for name, value in kwargs.items() if name not in config}
    )
    _check_arguments(module_class, args, given, own_parameters)
    module = module_class(*args, **given)
    _configure(module, config)
    return module


def _select_arguments(
    module_class: type, registry: Mapping[str, RegistryEntry], kwargs: Mapping[str, Any]
) -> dict[str, Any]:
    """Drop the arguments that other registered classes take and this one doesn't."""
    own_parameters = _parameter_names(module_class)
    other_parameters = {name for entry in registry.values() for name in _parameter_names(entry.preferred)}
    own = _MIXIN_ARGUMENTS if issubclass(module_class, VariableAwareMixin) else frozenset[str]()
    unwanted = (
        (other_parameters if is_user_class(module_class) else other_parameters | keywords.RULES.keys())
        - own_parameters
        - own
    )
    return {name: value for name, value in kwargs.items() if name not in unwanted}


_MIXIN_ARGUMENTS = frozenset({"session_context", "auto_sync"})


def _check_arguments(
    module_class: type, args: tuple[Any, ...], given: Mapping[str, Any], own_parameters: set[str]
) -> None:
    own = _MIXIN_ARGUMENTS if issubclass(module_class, VariableAwareMixin) else frozenset[str]()
    unknown = sorted(given.keys() - own_parameters - own)
    if unknown:
        raise TypeError(
            f"{module_class.__name__} takes no argument {', '.join(unknown)}; it takes {sorted(own_parameters)}"
        )
    try:
        _constructor_signature(module_class).bind(
            None, *args, **{name: v for name, v in given.items() if name not in own}
        )
    except TypeError as exc:
        remedy = "Give it too; where it has no use, it is left out"
        raise TypeError(f"{module_class.__name__} can't be built from these arguments: {exc}. {remedy}.") from None


def _configure(module: Any, config: Mapping[str, Any]) -> None:
    for _, predictor in predictors(module) if config else ():
        predictor.config = {**predictor.config, **config}
    for _, flex in parts(module, Flex) if config else ():
        for name, value in config.items():
            override_keyword(flex, name, value)


def _constructor_signature(module_class: type) -> inspect.Signature:
    """Return the signature of the plain class's constructor; the mixin's accepts anything."""
    plain = next(base for base in module_class.__mro__ if "__init__" in vars(base) and base not in MIXIN_CLASSES)
    return inspect.signature(plain.__init__)


def _parameter_names(module_class: type) -> set[str]:
    """Return the names of a constructor's explicit parameters, without ``*args`` and ``**config``."""
    return {
        name
        for name, parameter in _constructor_signature(module_class).parameters.items()
        if name != "self" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
