"""DSPy modules that obey session variables: the public names of the variable-aware integration."""

from snakepit_bridge.dspy_integration.factory import create_variable_aware_module
from snakepit_bridge.dspy_integration.mixin import VariableAwareMixin
from snakepit_bridge.dspy_integration.modules import (
    ChainOfThoughtWithHint,
    VariableAwareChainOfThought,
    VariableAwareChainOfThoughtWithHint,
    VariableAwarePredict,
    VariableAwareProgramOfThought,
    VariableAwareReAct,
    variable_aware,
)
from snakepit_bridge.dspy_integration.resolver import ModuleSpec, ModuleVariableResolver

__all__ = [
    "ChainOfThoughtWithHint",
    "ModuleSpec",
    "ModuleVariableResolver",
    "VariableAwareChainOfThought",
    "VariableAwareChainOfThoughtWithHint",
    "VariableAwareMixin",
    "VariableAwarePredict",
    "VariableAwareProgramOfThought",
    "VariableAwareReAct",
    "create_variable_aware_module",
    "variable_aware",
]
