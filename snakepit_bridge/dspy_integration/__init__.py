"""DSPy modules that obey session variables: the public names of the variable-aware integration."""

from snakepit_bridge.dspy_integration.binding import bindable
from snakepit_bridge.dspy_integration.ensemble import Ensemble
from snakepit_bridge.dspy_integration.factory import create_variable_aware_module
from snakepit_bridge.dspy_integration.knn_few_shot import KNNFewShot
from snakepit_bridge.dspy_integration.mixin import VariableAwareMixin
from snakepit_bridge.dspy_integration.modules import (
    ChainOfThoughtWithHint,
    VariableAwareBestOfN,
    VariableAwareChainOfThought,
    VariableAwareChainOfThoughtWithHint,
    VariableAwareCodeAct,
    VariableAwareEnsemble,
    VariableAwareFlex,
    VariableAwareKNN,
    VariableAwareKNNFewShot,
    VariableAwareMultiChainComparison,
    VariableAwareParallel,
    VariableAwarePredict,
    VariableAwareProgramOfThought,
    VariableAwareReAct,
    VariableAwareReActV2,
    VariableAwareRefine,
    VariableAwareRLM,
    variable_aware,
)
from snakepit_bridge.dspy_integration.registry import register_interpreter, register_reward, register_tool
from snakepit_bridge.dspy_integration.resolver import ModuleSpec, ModuleVariableResolver
from snakepit_bridge.dspy_integration.targets.custom import register_target, unregister_target
from snakepit_bridge.dspy_integration.tool_calls import tool, tool_call_id

__all__ = [
    "ChainOfThoughtWithHint",
    "Ensemble",
    "KNNFewShot",
    "ModuleSpec",
    "ModuleVariableResolver",
    "VariableAwareBestOfN",
    "VariableAwareChainOfThought",
    "VariableAwareChainOfThoughtWithHint",
    "VariableAwareCodeAct",
    "VariableAwareEnsemble",
    "VariableAwareFlex",
    "VariableAwareKNN",
    "VariableAwareKNNFewShot",
    "VariableAwareMixin",
    "VariableAwareMultiChainComparison",
    "VariableAwareParallel",
    "VariableAwarePredict",
    "VariableAwareProgramOfThought",
    "VariableAwareReAct",
    "VariableAwareReActV2",
    "VariableAwareRefine",
    "VariableAwareRLM",
    "bindable",
    "create_variable_aware_module",
    "register_interpreter",
    "register_reward",
    "register_target",
    "register_tool",
    "tool",
    "tool_call_id",
    "unregister_target",
    "variable_aware",
]
