"""ModuleVariableResolver: from the value of a module-type variable to a module."""

from __future__ import annotations

import inspect
import logging
from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, cast

import dspy

from snakepit_bridge.dspy_integration import keywords
from snakepit_bridge.dspy_integration.mixin import VariableAwareMixin
from snakepit_bridge.dspy_integration.modules import (
    ChainOfThoughtWithHint,
    VariableAwareChainOfThought,
    VariableAwareChainOfThoughtWithHint,
    VariableAwarePredict,
    VariableAwareProgramOfThought,
    VariableAwareReAct,
)
from snakepit_bridge.dspy_integration.structure import predictors
from snakepit_bridge.exceptions import UnknownModuleError
from snakepit_bridge.session_context import SessionContext

logger = logging.getLogger(__name__)

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class ModuleSpec:
    """One entry of the module registry.

    Attributes:
        name: what a variable says.
        module_class: the plain class.
        variable_aware_class: its variable-aware twin, if there is one.
        requires_context: whether the twin is handed the session.
    """

    name: str
    module_class: type
    variable_aware_class: type | None = None
    requires_context: bool = True

    @property
    def preferred(self) -> type:
        """The variable-aware class if there is one, else the plain one."""
        return self.variable_aware_class or self.module_class


Registry = MutableMapping[str, ModuleSpec]


class _OnRegistry(Generic[P, R]):
    """A method that works on the class's registry through the class, and on an instance's own through the instance."""

    def __init__(self, function: Callable[Concatenate[Registry, P], R]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: Any) -> Callable[P, R]:
        registry: Registry = (owner if instance is None else instance).MODULE_REGISTRY

        def bound(*args: P.args, **kwargs: P.kwargs) -> R:
            return self._function(registry, *args, **kwargs)

        bound.__doc__ = self.__doc__
        return bound


def _register(
    registry: Registry, name: str, module_class: type, variable_aware_class: type | None = None
) -> None:
    """Registers a module type under a name.

    Called on the class it holds for every resolver; called on an instance, for that one alone.
    """
    registry[name] = ModuleSpec(name, module_class, variable_aware_class)
    logger.debug("registered module type %s", name)


def lookup(registry: Mapping[str, ModuleSpec], name: object) -> ModuleSpec:
    """Returns the entry for a name, whatever its case, or for a class that is registered.

    Raises:
        UnknownModuleError: nothing is registered there; names the close matches.
    """
    if isinstance(name, type):
        for spec in registry.values():
            if name in (spec.module_class, spec.variable_aware_class):
                return spec
        raise UnknownModuleError(name.__name__, sorted(registry))
    if name in registry:
        return registry[cast(str, name)]
    folded = str(name).casefold()
    for known, spec in registry.items():
        if known.casefold() == folded:
            return spec
    raise UnknownModuleError(str(name), sorted(registry))


class ModuleVariableResolver:
    """Makes the module that a module-type variable names, anew each time, so that it never answers from the past.

    Args:
        session_context: the session that holds the variable.

    Example:
        >>> resolver = ModuleVariableResolver(ctx)
        >>> module = await resolver.create_module("reasoning_strategy", "question -> answer")
    """

    MODULE_REGISTRY: ClassVar[Registry] = {
        "Predict": ModuleSpec("Predict", dspy.Predict, VariableAwarePredict),
        "ChainOfThought": ModuleSpec("ChainOfThought", dspy.ChainOfThought, VariableAwareChainOfThought),
        "COT": ModuleSpec("COT", dspy.ChainOfThought, VariableAwareChainOfThought),
        "ChainOfThoughtWithHint": ModuleSpec(
            "ChainOfThoughtWithHint", ChainOfThoughtWithHint, VariableAwareChainOfThoughtWithHint
        ),
        "ReAct": ModuleSpec("ReAct", dspy.ReAct, VariableAwareReAct),
        "ProgramOfThought": ModuleSpec("ProgramOfThought", dspy.ProgramOfThought, VariableAwareProgramOfThought),
        "POT": ModuleSpec("POT", dspy.ProgramOfThought, VariableAwareProgramOfThought),
    }

    register_module = _OnRegistry(_register)

    def __init__(self, session_context: SessionContext) -> None:
        self.session_context = session_context
        # Writes through an instance stay in its own layer; what the class learns later is seen through it.
        self.MODULE_REGISTRY = ChainMap({}, cast(Any, type(self).MODULE_REGISTRY))  # pyright: ignore

    async def resolve_module(self, variable_name: str) -> type:
        """Returns the class that a module-type variable names now, variable-aware where there is one.

        Raises:
            UnknownModuleError: the value names no registered module (also a ValueError).
            VariableNotFoundError: the session doesn't have the variable.
        """
        return (await self._spec(variable_name)).preferred

    async def create_module(
        self, variable_name: str, *args: Any, use_variable_aware: bool = True, **kwargs: Any
    ) -> Any:
        """Returns a new module of the type that a variable names now.

        Args:
            variable_name: the module-type variable.
            *args: positional constructor arguments, usually the signature.
            use_variable_aware: whether to prefer the variable-aware class and hand it this session.
            **kwargs: constructor arguments; they survive a switch of the variable, see :func:`construct`.

        Raises:
            UnknownModuleError: the value names no registered module (also a ValueError).
            VariableNotFoundError: the session doesn't have the variable.
        """
        spec = await self._spec(variable_name)
        module_class = spec.preferred if use_variable_aware else spec.module_class
        if issubclass(module_class, VariableAwareMixin) and spec.requires_context:
            kwargs.setdefault("session_context", self.session_context)
        return construct(module_class, self.MODULE_REGISTRY, *args, **kwargs)

    def get_available_modules(self) -> list[str]:
        """Returns the names that a module-type variable may say, sorted."""
        return sorted(self.MODULE_REGISTRY)

    async def _spec(self, variable_name: str) -> ModuleSpec:
        return lookup(self.MODULE_REGISTRY, await self.session_context.get_variable(variable_name))


def construct(module_class: type, registry: Mapping[str, ModuleSpec], *args: Any, **kwargs: Any) -> Any:
    """Builds a module from arguments that were written for a whole family of modules.

    The arguments of a module-type variable's program must survive its switch from one class to another: LM keywords
    become the predictors' config in every class, and an argument that only other registered classes take (ReAct's
    ``tools``) is left out.

    Raises:
        TypeError: an argument that no registered class takes, or a missing one.
    """
    mine = _parameters(module_class)
    known = {name for spec in registry.values() for name in _parameters(spec.preferred)}
    config = {name: value for name, value in kwargs.items() if name in keywords.RULES and name not in mine}
    aware = issubclass(module_class, VariableAwareMixin)
    own = {"session_context", "auto_sync"} if aware else set[str]()
    given = {
        name: value
        for name, value in kwargs.items()
        if name not in config and (name in mine or name in own or name not in known)
    }
    unknown = sorted(set(given) - mine - own)
    if unknown and issubclass(module_class, dspy.Module):
        raise TypeError(f"{module_class.__name__} takes no argument {', '.join(unknown)}; it takes {sorted(mine)}")
    module = module_class(*args, **given)
    for _, predictor in predictors(module) if config else ():
        predictor.config = {**predictor.config, **config}
    return module


def _parameters(module_class: type) -> set[str]:
    """Names that a class's constructor takes explicitly, ``*args`` and ``**config`` left out."""
    plain = next((base for base in module_class.__mro__ if "__init__" in vars(base) and base is not VariableAwareMixin))
    return {
        name
        for name, parameter in inspect.signature(plain.__init__).parameters.items()
        if name != "self" and parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD)
    }
