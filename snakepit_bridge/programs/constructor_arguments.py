"""What each of DSPy's modules was built with, read back from the module: the other half of its constructor."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.predict.predict import serialize_object

from snakepit_bridge.dspy_integration.registry import INTERPRETERS, REDUCERS, REWARDS, NamedRegistry
from snakepit_bridge.dspy_integration.targets.prompt import without_attempts
from snakepit_bridge.dspy_integration.targets.tools import runs_baseline
from snakepit_bridge.exceptions import ProgramSpecError

FUNCTIONS: dict[str, NamedRegistry[Any]] = {
    "reward_fn": REWARDS,
    "reduce_fn": REDUCERS,
    "interpreter_factory": INTERPRETERS,
}
"""Constructor arguments that are functions, with those that have a registered name."""


@dataclass(frozen=True, slots=True)
class Built:
    """A constructor's arguments, by kind.

    Attributes:
        signature: the task's signature, without what the module adds to it.
        tools: functions or ``dspy.Tool``; None where its constructor needs none.
        arguments: plain values.
        functions: argument to function; None is the module's own default.
        modules: argument to module, or to several.
        carries_state: whether the module has predictors of its own, beside those of its ``modules``.
    """

    signature: Any = None
    tools: Sequence[Any] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    functions: Mapping[str, Any] = field(default_factory=dict[str, Any])
    modules: Mapping[str, Any] = field(default_factory=dict[str, Any])
    carries_state: bool = True


Reader = Callable[[Any, str], Built]


def _predict(module: Any, _: str) -> Built:
    return Built(module.signature)


def _chain(module: Any, _: str) -> Built:
    return Built(module.predict.signature.delete("reasoning"))


def _react(module: Any, _: str) -> Built:
    tools = [tool for name, tool in module.tools.items() if name not in ("finish", "submit")]
    return Built(module.signature, tools, {"max_iters": module.max_iters})


def _program_of_thought(module: Any, _: str) -> Built:
    return Built(module.signature, None, {"max_iters": module.max_iters}, _interpreter(module))


def _code_act(module: Any, _: str) -> Built:
    tools = [getattr(tool, "func", tool) for tool in module.tools.values()]
    return Built(module.signature, tools, {"max_iters": module.max_iters}, _interpreter(module))


def _comparison(module: Any, _: str) -> Built:
    return Built(without_attempts(module.predict.signature), None, {"M": module.M})


def _best(module: Any, _: str) -> Built:
    # DSPy wraps the function, so that it isn't taken for a parameter.
    reward = inspect.getclosurevars(module.reward_fn).nonlocals["reward_fn"]
    said = {"N": module.N, "threshold": module.threshold, "fail_count": module.fail_count}
    return Built(None, None, said, {"reward_fn": reward}, {"module": module.module}, carries_state=False)


def _ensemble(module: Any, _: str) -> Built:
    reduce = {} if module.reduce_fn is None else {"reduce_fn": module.reduce_fn}
    return Built(None, None, {"size": module.size}, reduce, {"programs": list(module.programs)}, carries_state=False)


def _rlm(module: Any, program: str) -> Built:
    if module.sub_lm is not None:
        raise ProgramSpecError(program, "arguments.sub_lm", "an LM can't travel; bind sub_lm to a variable instead")
    names = ("max_iters", "max_llm_calls", "max_output_chars", "verbose")
    tools = list(module._user_tools.values()) or None
    return Built(module.signature, tools, {name: getattr(module, name) for name in names}, _interpreter(module))


def _flex(module: Any, program: str) -> Built:
    if not runs_baseline(module):
        raise ProgramSpecError(program, "the whole", "its code was rewritten by an optimizer, and code can't travel")
    tools = list(module._flex_ctx.context_names().values()) or None
    said = {"max_predictor_calls": module._max_predictor_calls}
    return Built(module.signature, tools, said, _interpreter(module), carries_state=False)


def _parallel(module: Any, _: str) -> Built:
    names = (
        "num_threads", "max_errors", "access_examples", "return_failed_examples", "provide_traceback",
        "disable_progress_bar", "timeout", "straggler_limit",
    )  # fmt: skip
    return Built(arguments={name: getattr(module, name) for name in names}, carries_state=False)


def _knn(module: Any, program: str) -> Built:
    vectorizer = getattr(module.embedding, "model", module.embedding)
    if not callable(vectorizer):
        raise ProgramSpecError(program, "functions.vectorizer", "a hosted embedder can't travel; give it a function")
    trainset = [
        {"example": serialize_object(example.toDict()), "inputs": sorted(example.inputs().keys())}
        for example in module.trainset
    ]
    return Built(
        arguments={"k": module.k, "trainset": trainset}, functions={"vectorizer": vectorizer}, carries_state=False
    )


def _interpreter(module: Any) -> dict[str, Any]:
    factory = module._interpreter_factory
    return {} if factory is dspy.PythonInterpreter else {"interpreter_factory": factory}


READERS: dict[str, Reader] = {
    "Predict": _predict,
    "ChainOfThought": _chain,
    "ChainOfThoughtWithHint": _chain,
    "ReAct": _react,
    "ReActV2": _react,
    "ProgramOfThought": _program_of_thought,
    "CodeAct": _code_act,
    "MultiChainComparison": _comparison,
    "BestOfN": _best,
    "Refine": _best,
    "RLM": _rlm,
    "Flex": _flex,
    "Ensemble": _ensemble,
    "Parallel": _parallel,
    "KNN": _knn,
}
"""By the name of DSPy's class."""
