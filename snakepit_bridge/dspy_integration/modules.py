"""The variable-aware twins of DSPy's modules, and the means to make one of any module class."""

from __future__ import annotations

import functools
from typing import Any, cast

import dspy
from dspy.signatures.signature import ensure_signature

from snakepit_bridge.dspy_integration.mixin import VariableAwareMixin


class ChainOfThoughtWithHint(dspy.ChainOfThought):
    """ChainOfThought whose signature gains an optional ``hint`` input; DSPy 3 no longer has it.

    Args:
        signature: the task's signature, without the hint.
        **config: LM keywords, as ChainOfThought takes them.
    """

    def __init__(self, signature: Any, **config: Any) -> None:
        plain = cast(Any, ensure_signature(signature))
        hinted = plain
        if "hint" not in plain.input_fields:
            hinted = plain.append("hint", dspy.InputField(desc="a hint towards the answer", default=""), type_=str)
        super().__init__(hinted, **config)


class VariableAwarePredict(VariableAwareMixin, dspy.Predict):
    """``dspy.Predict`` that obeys session variables."""


class VariableAwareChainOfThought(VariableAwareMixin, dspy.ChainOfThought):
    """``dspy.ChainOfThought`` that obeys session variables."""


class VariableAwareChainOfThoughtWithHint(VariableAwareMixin, ChainOfThoughtWithHint):
    """:class:`ChainOfThoughtWithHint` that obeys session variables."""


class VariableAwareReAct(VariableAwareMixin, dspy.ReAct):
    """``dspy.ReAct`` that obeys session variables, in its agent step and in its extraction."""


class VariableAwareProgramOfThought(VariableAwareMixin, dspy.ProgramOfThought):
    """``dspy.ProgramOfThought`` that obeys session variables, in each of its three steps."""


_AWARE: dict[type, type] = {
    dspy.Predict: VariableAwarePredict,
    dspy.ChainOfThought: VariableAwareChainOfThought,
    ChainOfThoughtWithHint: VariableAwareChainOfThoughtWithHint,
    dspy.ReAct: VariableAwareReAct,
    dspy.ProgramOfThought: VariableAwareProgramOfThought,
}


@functools.cache
def variable_aware(module_class: type) -> type:
    """Returns the variable-aware twin of a module class; also a decorator for one's own.

    Example:
        >>> @variable_aware
        ... class Summarize(dspy.Module): ...
        >>> Summarize(session_context=ctx)
    """
    if issubclass(module_class, VariableAwareMixin):
        return module_class
    if module_class in _AWARE:
        return _AWARE[module_class]
    # It keeps the name and place of the class it stands for, so that provenance and pickles name what the user wrote.
    namespace = {"__doc__": module_class.__doc__, "__module__": module_class.__module__}
    twin = cast(type, type(module_class)(module_class.__name__, (VariableAwareMixin, module_class), namespace))
    twin.__qualname__ = module_class.__qualname__
    return twin


def plain_name(module: object) -> str:
    """Returns the DSPy name of a module's class: ``ChainOfThought`` for its variable-aware twin too."""
    kind = type(module)
    if issubclass(kind, VariableAwareMixin):
        kind = next(base for base in kind.__mro__[1:] if not issubclass(base, VariableAwareMixin))
    return kind.__name__
