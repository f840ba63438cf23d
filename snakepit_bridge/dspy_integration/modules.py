"""Variable-aware versions of DSPy's modules, and a decorator that makes one of any module class."""

from __future__ import annotations

import functools
import inspect
import operator
import sys
from typing import Any, cast

import dspy
from dspy.signatures.signature import ensure_signature

from snakepit_bridge.dspy_integration.compat import KNN, RLM, Flex, Parallel, ReActV2
from snakepit_bridge.dspy_integration.ensemble import Ensemble
from snakepit_bridge.dspy_integration.knn_few_shot import KNNFewShot
from snakepit_bridge.dspy_integration.mixin import MIXIN_CLASSES, VariableAwareMixin
from snakepit_bridge.dspy_integration.targets.prompt import with_attempts


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
    """``dspy.Predict`` that follows session variables."""


class VariableAwareChainOfThought(VariableAwareMixin, dspy.ChainOfThought):
    """``dspy.ChainOfThought`` that follows session variables."""


class VariableAwareChainOfThoughtWithHint(VariableAwareMixin, ChainOfThoughtWithHint):
    """:class:`ChainOfThoughtWithHint` that follows session variables."""


class VariableAwareReAct(VariableAwareMixin, dspy.ReAct):
    """``dspy.ReAct`` that follows session variables, in its agent step and in its extraction."""


class VariableAwareReActV2(VariableAwareMixin, ReActV2):
    """``dspy.ReActV2`` that follows session variables."""


class VariableAwareProgramOfThought(VariableAwareMixin, dspy.ProgramOfThought):
    """``dspy.ProgramOfThought`` that follows session variables, in each of its three steps."""


class VariableAwareCodeAct(VariableAwareMixin, dspy.CodeAct):
    """``dspy.CodeAct`` that follows session variables; its ``acall`` runs in a thread, as DSPy's can't be awaited."""


class VariableAwareMultiChainComparison(VariableAwareMixin, dspy.MultiChainComparison):
    """``dspy.MultiChainComparison`` that follows session variables, also in the number of attempts, ``M``."""

    def __init__(self, signature: Any, M: int = 3, temperature: float = 0.7, **config: Any) -> None:  # noqa: N803
        # DSPy builds a signature for each attempt, with all the attempts before it: a thousand take half a minute.
        super().__init__(signature, M=min(M, 1), temperature=temperature, **config)
        if M > 1:
            self.M = M
            self.predict.signature = with_attempts(cast(Any, self.predict.signature), M)


class VariableAwareBestOfN(VariableAwareMixin, dspy.BestOfN):
    """``dspy.BestOfN`` that follows session variables; a bound temperature holds where DSPy would force 1.0."""


class VariableAwareRefine(VariableAwareMixin, dspy.Refine):
    """``dspy.Refine`` that follows session variables, in its module and in the feedback that it asks for."""

    def __init__(
        self,
        module: Any,
        N: int,  # noqa: N803
        reward_fn: Any,
        threshold: float,
        fail_count: int | None = None,
        **aware: Any,
    ) -> None:
        super().__init__(module, N, reward_fn, threshold, fail_count, **aware)
        # Its prompt contains the module's source, which is that of the class that the user wrote.
        self.module_code = inspect.getsource(_find_plain_class(type(module)))


class VariableAwareRLM(VariableAwareMixin, RLM):
    """``dspy.RLM`` that follows session variables; its ``acall`` runs in a thread, since its interpreter blocks."""


class VariableAwareFlex(VariableAwareMixin, Flex):
    """``dspy.Flex`` that follows session variables, whatever predictors its code makes."""


class VariableAwareEnsemble(VariableAwareMixin, Ensemble):
    """An ensemble that follows session variables, as do the aware programs in it."""


class VariableAwareParallel(VariableAwareMixin, Parallel):
    """``dspy.Parallel`` that follows session variables; aware modules in its pairs see the same snapshot."""


class VariableAwareKNN(VariableAwareMixin, KNN):
    """``dspy.KNN`` that follows session variables in the number of neighbours, ``k``."""


class VariableAwareKNNFewShot(VariableAwareMixin, KNNFewShot):
    """A KNNFewShot that follows session variables; ``student.temperature`` holds in its bootstraps as well."""


_AWARE: dict[type, type] = {
    dspy.Predict: VariableAwarePredict,
    dspy.ChainOfThought: VariableAwareChainOfThought,
    ChainOfThoughtWithHint: VariableAwareChainOfThoughtWithHint,
    dspy.ReAct: VariableAwareReAct,
    ReActV2: VariableAwareReActV2,
    dspy.ProgramOfThought: VariableAwareProgramOfThought,
    dspy.CodeAct: VariableAwareCodeAct,
    dspy.MultiChainComparison: VariableAwareMultiChainComparison,
    dspy.BestOfN: VariableAwareBestOfN,
    dspy.Refine: VariableAwareRefine,
    RLM: VariableAwareRLM,
    Flex: VariableAwareFlex,
    Ensemble: VariableAwareEnsemble,
    dspy.Ensemble: VariableAwareEnsemble,
    Parallel: VariableAwareParallel,
    KNN: VariableAwareKNN,
    KNNFewShot: VariableAwareKNNFewShot,
}


@functools.cache
def variable_aware(module_class: type) -> type:
    """Return the variable-aware version of a module class; also a decorator for one's own.

    Example:
        >>> @variable_aware
        ... class Summarize(dspy.Module): ...
        >>> summarize = Summarize(session_context=ctx)
    """
    if issubclass(module_class, VariableAwareMixin):
        return module_class
    if module_class in _AWARE:
        return _AWARE[module_class]
    # It keeps the name and module of the plain class, so that provenance and pickles name what the user wrote.
    namespace = {
        "__doc__": module_class.__doc__,
        "__module__": module_class.__module__,
        "__qualname__": module_class.__qualname__,
        "__reduce_ex__": _reduce,
    }
    make = cast(Any, type(module_class))
    return cast(type, make(module_class.__name__, (VariableAwareMixin, module_class), namespace))


def _reduce(module: Any, protocol: Any) -> Any:
    """Pickle a decorated class by its name, and one that was made from a plain class by that class."""
    kind = type(module)
    try:
        found = operator.attrgetter(kind.__qualname__)(sys.modules[kind.__module__])
    except (KeyError, AttributeError):
        found = kind  # defined in a function: only cloudpickle can save it
    if found is kind:
        return object.__reduce_ex__(module, protocol)
    return _recreate, (_find_plain_class(kind),), module.__getstate__()


def _recreate(plain: type) -> Any:
    return object.__new__(variable_aware(plain))


def _find_plain_class(kind: type) -> type:
    return next(base for base in kind.__mro__ if not issubclass(base, VariableAwareMixin) and base not in MIXIN_CLASSES)


def plain_class_name(module: object) -> str:
    """Return the DSPy name of a module's class: ``ChainOfThought`` for its variable-aware version too."""
    return _find_plain_class(type(module)).__name__
