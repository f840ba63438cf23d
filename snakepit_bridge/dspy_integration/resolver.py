"""ModuleVariableResolver: from the value of a module-type variable to a module."""

from __future__ import annotations

import inspect
import logging
from collections import ChainMap
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, ClassVar, Concatenate, Generic, ParamSpec, TypeVar, cast

import dspy

from snakepit_bridge.dspy_integration.compat import KNN, RLM, Flex, Parallel, ReActV2
from snakepit_bridge.dspy_integration.construction import construct
from snakepit_bridge.dspy_integration.ensemble import Ensemble
from snakepit_bridge.dspy_integration.knn_few_shot import KNNFewShot
from snakepit_bridge.dspy_integration.mixin import VariableAwareMixin
from snakepit_bridge.dspy_integration.modules import ChainOfThoughtWithHint, variable_aware
from snakepit_bridge.exceptions import UnknownModuleError
from snakepit_bridge.session_context import SessionContext

logger = logging.getLogger(__name__)

STANDARD: Mapping[str, type] = {
    "Predict": dspy.Predict,
    "ChainOfThought": dspy.ChainOfThought,
    "ChainOfThoughtWithHint": ChainOfThoughtWithHint,
    "ReAct": dspy.ReAct,
    "ReActV2": ReActV2,
    "ProgramOfThought": dspy.ProgramOfThought,
    "CodeAct": dspy.CodeAct,
    "MultiChainComparison": dspy.MultiChainComparison,
    "BestOfN": dspy.BestOfN,
    "Refine": dspy.Refine,
    "RLM": RLM,
    "Flex": Flex,
    "Ensemble": Ensemble,
    "Parallel": Parallel,
    "KNN": KNN,
    "KNNFewShot": KNNFewShot,
}
"""The modules that every resolver knows."""

ALIASES: Mapping[str, str] = {"COT": "ChainOfThought", "POT": "ProgramOfThought"}

P = ParamSpec("P")
R = TypeVar("R")


@dataclass
class ModuleSpec:
    """One entry of the module registry.

    Attributes:
        name: the value that a variable may hold.
        module_class: the plain class.
        variable_aware_class: its variable-aware version, if there is one.
        requires_context: whether the variable-aware class is given the session.
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


class _RegistryMethod(Generic[P, R]):
    """A method of the class's registry when accessed on the class, and of the instance's on an instance."""

    def __init__(self, function: Callable[Concatenate[Registry, P], R]) -> None:
        self._function = function
        self.__doc__ = function.__doc__

    def __get__(self, instance: Any, owner: Any) -> Callable[P, R]:
        registry: Registry = (owner if instance is None else instance).MODULE_REGISTRY

        def bound(*args: P.args, **kwargs: P.kwargs) -> R:
            return self._function(registry, *args, **kwargs)

        bound.__doc__ = self.__doc__
        signature = inspect.signature(self._function)
        setattr(bound, "__signature__", signature.replace(parameters=list(signature.parameters.values())[1:]))  # noqa: B010
        return bound


def _register(registry: Registry, name: str, module_class: type, variable_aware_class: type | None = None) -> None:
    """Register a module type under a name.

    Called on the class it applies to every resolver; called on an instance, to that one alone.
    """
    registry[name] = ModuleSpec(name, module_class, variable_aware_class)
    logger.debug("registered module type %s", name)


def lookup(registry: Mapping[str, ModuleSpec], name: object) -> ModuleSpec:
    """Return the entry for a name, ignoring case, or for a registered class.

    Raises:
        UnknownModuleError: nothing is registered under it; suggests close matches.
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
    """Builds the module that a module-type variable names, from its present value each time.

    Args:
        session_context: the session that holds the variable.

    Example:
        >>> resolver = ModuleVariableResolver(ctx)
        >>> module = await resolver.create_module("reasoning_strategy", "question -> answer")
    """

    MODULE_REGISTRY: ClassVar[Registry] = {
        **{name: ModuleSpec(name, plain, variable_aware(plain)) for name, plain in STANDARD.items()},
        **{alias: ModuleSpec(alias, STANDARD[name], variable_aware(STANDARD[name])) for alias, name in ALIASES.items()},
    }

    register_module = _RegistryMethod(_register)

    def __init__(self, session_context: SessionContext) -> None:
        self.session_context = session_context
        # Writes on an instance stay in its own layer; later registrations on the class are visible through it.
        vars(self)["MODULE_REGISTRY"] = ChainMap({}, cast(Any, type(self).MODULE_REGISTRY))

    async def resolve_module(self, variable_name: str) -> type:
        """Return the class that a module-type variable names now, variable-aware where there is one.

        Raises:
            UnknownModuleError: the value names no registered module (also a ValueError).
            VariableNotFoundError: the session doesn't have the variable.
        """
        return (await self._find_spec(variable_name)).preferred

    async def create_module(
        self, variable_name: str, *args: Any, use_variable_aware: bool = True, **kwargs: Any
    ) -> Any:
        """Return a new module of the type that a variable names now.

        Args:
            variable_name: the module-type variable.
            *args: positional constructor arguments, usually the signature.
            use_variable_aware: whether to prefer the variable-aware class and hand it this session.
            **kwargs: constructor arguments; they apply to any module type: LM keywords become the predictors' config
                in every class, and arguments that only other registered classes take are dropped.

        Raises:
            UnknownModuleError: the value names no registered module (also a ValueError).
            VariableNotFoundError: the session doesn't have the variable.
            ValidationError: an LM keyword is out of its range.
            TypeError: no registered class takes an argument, or a required one is missing.
        """
        spec = await self._find_spec(variable_name)
        module_class = spec.preferred if use_variable_aware else spec.module_class
        if issubclass(module_class, VariableAwareMixin) and spec.requires_context:
            kwargs.setdefault("session_context", self.session_context)
        return construct(module_class, self.MODULE_REGISTRY, *args, **kwargs)

    def get_available_modules(self) -> list[str]:
        """Return the names that a module-type variable may hold, sorted."""
        return sorted(self.MODULE_REGISTRY)

    async def _find_spec(self, variable_name: str) -> ModuleSpec:
        return lookup(self.MODULE_REGISTRY, await self.session_context.get_variable(variable_name))
