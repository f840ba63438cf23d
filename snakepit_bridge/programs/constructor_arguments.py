"""Read the constructor arguments of DSPy's modules back from an instance."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import dspy
from dspy.predict.predict import serialize_object

from snakepit_bridge.dspy_integration.compat import (
    get_flex_tools,
    get_interpreter_factory,
    get_max_predictor_calls,
    get_rlm_tools,
    runs_baseline,
)
from snakepit_bridge.dspy_integration.registry import INTERPRETERS, METRICS, REDUCERS, REWARDS, NamedRegistry
from snakepit_bridge.dspy_integration.targets.prompt import without_attempts
from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.few_shot_examples import dump_examples, dump_vectors

FUNCTIONS: dict[str, NamedRegistry[Any]] = {
    "reward_fn": REWARDS,
    "reduce_fn": REDUCERS,
    "interpreter_factory": INTERPRETERS,
    "metric": METRICS,
}
"""Constructor arguments that are functions, with their registries."""


@dataclass(frozen=True, slots=True)
class ConstructorArguments:
    """A constructor's arguments, by kind.

    Attributes:
        signature: the task's signature, without the fields that the module adds.
        tools: functions or ``dspy.Tool``; None where its constructor needs none.
        arguments: JSON values.
        functions: argument to function; None is the module's own default.
        modules: argument to module, or to several.
        carries_state: whether the module has predictors of its own, besides those of its ``modules``.
    """

    signature: Any = None
    tools: Sequence[Any] | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict[str, Any])
    functions: Mapping[str, Any] = field(default_factory=dict[str, Any])
    modules: Mapping[str, Any] = field(default_factory=dict[str, Any])
    carries_state: bool = True


Reader = Callable[[Any, str], ConstructorArguments]


def _read_predict(module: Any, _: str) -> ConstructorArguments:
    return ConstructorArguments(module.signature)


def _read_chain_of_thought(module: Any, _: str) -> ConstructorArguments:
    return ConstructorArguments(module.predict.signature.delete("reasoning"))


def _read_react(module: Any, _: str) -> ConstructorArguments:
    tools = [tool for name, tool in module.tools.items() if name not in ("finish", "submit")]
    return ConstructorArguments(module.signature, tools, {"max_iters": module.max_iters})


def _read_program_of_thought(module: Any, _: str) -> ConstructorArguments:
    return ConstructorArguments(module.signature, None, {"max_iters": module.max_iters}, _read_interpreter(module))


def _read_code_act(module: Any, _: str) -> ConstructorArguments:
    tools = [getattr(tool, "func", tool) for tool in module.tools.values()]
    return ConstructorArguments(module.signature, tools, {"max_iters": module.max_iters}, _read_interpreter(module))


def _read_comparison(module: Any, _: str) -> ConstructorArguments:
    return ConstructorArguments(without_attempts(module.predict.signature), None, {"M": module.M})


def _read_best_of_n(module: Any, _: str) -> ConstructorArguments:
    # DSPy wraps the function, so that it isn't taken for a parameter.
    reward = inspect.getclosurevars(module.reward_fn).nonlocals["reward_fn"]
    arguments = {"N": module.N, "threshold": module.threshold, "fail_count": module.fail_count}
    return ConstructorArguments(
        None, None, arguments, {"reward_fn": reward}, {"module": module.module}, carries_state=False
    )


def _read_ensemble(module: Any, _: str) -> ConstructorArguments:
    reduce = {} if module.reduce_fn is None else {"reduce_fn": module.reduce_fn}
    return ConstructorArguments(
        None, None, {"size": module.size}, reduce, {"programs": list(module.programs)}, carries_state=False
    )


def _read_rlm(module: Any, program: str) -> ConstructorArguments:
    if module.sub_lm is not None:
        raise ProgramSpecError(program, "arguments.sub_lm", "an LM can't travel; bind sub_lm to a variable instead")
    names = ("max_iters", "max_llm_calls", "max_output_chars", "verbose")
    tools = list(get_rlm_tools(module).values()) or None
    return ConstructorArguments(
        module.signature, tools, {name: getattr(module, name) for name in names}, _read_interpreter(module)
    )


def _read_flex(module: Any, program: str) -> ConstructorArguments:
    if not runs_baseline(module):
        raise ProgramSpecError(program, "the whole", "its code was rewritten by an optimizer, and code can't travel")
    tools = list(get_flex_tools(module).values()) or None
    arguments = {"max_predictor_calls": get_max_predictor_calls(module)}
    return ConstructorArguments(module.signature, tools, arguments, _read_interpreter(module), carries_state=False)


def _read_parallel(module: Any, _: str) -> ConstructorArguments:
    names = (
        "num_threads", "max_errors", "access_examples", "return_failed_examples", "provide_traceback",
        "disable_progress_bar", "timeout", "straggler_limit",
    )  # fmt: skip
    return ConstructorArguments(arguments={name: getattr(module, name) for name in names}, carries_state=False)


def _read_knn(module: Any, program: str) -> ConstructorArguments:
    vectorizer = getattr(module.embedding, "model", module.embedding)
    if not callable(vectorizer):
        raise ProgramSpecError(program, "functions.vectorizer", "a hosted embedder can't travel; give it a function")
    trainset = [
        {"example": serialize_object(example.toDict()), "inputs": sorted(example.inputs().keys())}
        for example in module.trainset
    ]
    return ConstructorArguments(
        arguments={"k": module.k, "trainset": trainset}, functions={"vectorizer": vectorizer}, carries_state=False
    )


def _read_knn_few_shot(module: Any, _: str) -> ConstructorArguments:
    knn, vectorizer = module.knn, module.knn.embedding
    examples = {"trainset": dump_examples(knn.trainset), "vectors": dump_vectors(knn.trainset_vectors)}
    names = {"embedder": vectorizer.model or None, "teacher_lm": module.teacher_lm or None}
    arguments = {"k": knn.k, **examples, **names, **module.few_shot}
    functions = {"vectorizer": None if vectorizer.model else vectorizer.embed, "metric": module.metric}
    return ConstructorArguments(
        arguments=_drop_absent(arguments),
        functions=_drop_absent(functions),
        modules=_drop_absent({"student": module.student, "teacher": module.teacher}),
        carries_state=False,
    )


def _drop_absent(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _read_interpreter(module: Any) -> dict[str, Any]:
    factory = get_interpreter_factory(module)
    return {} if factory is dspy.PythonInterpreter else {"interpreter_factory": factory}


READERS: dict[str, Reader] = {
    "Predict": _read_predict,
    "ChainOfThought": _read_chain_of_thought,
    "ChainOfThoughtWithHint": _read_chain_of_thought,
    "ReAct": _read_react,
    "ReActV2": _read_react,
    "ProgramOfThought": _read_program_of_thought,
    "CodeAct": _read_code_act,
    "MultiChainComparison": _read_comparison,
    "BestOfN": _read_best_of_n,
    "Refine": _read_best_of_n,
    "RLM": _read_rlm,
    "Flex": _read_flex,
    "Ensemble": _read_ensemble,
    "Parallel": _read_parallel,
    "KNN": _read_knn,
    "KNNFewShot": _read_knn_few_shot,
}
"""By the name of DSPy's class."""
