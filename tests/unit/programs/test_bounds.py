"""Counts, depths and sizes that a spec or a value may name are bounded, and refused by name."""

from __future__ import annotations

import json
import time
from typing import Any

import dspy
import pytest

from snakepit_bridge.dspy_integration.binding import BoundValue, LMScope, bind_values
from snakepit_bridge.dspy_integration.bounds import DEFAULT_BOUNDS, TargetBounds
from snakepit_bridge.dspy_integration.modules import VariableAwareMultiChainComparison
from snakepit_bridge.dspy_integration.targets.prompt import without_attempts
from snakepit_bridge.exceptions import ProgramSpecError, ValidationError
from snakepit_bridge.programs.build import check_spec
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.spec import ProgramSpec
from tests.harness.signatures import make_signature, signature_of
from tests.unit.programs import sample

QA: dict[str, Any] = {"module": "Predict", "signature": "question -> answer"}
SMALL = TargetBounds(
    max_tools=1, max_fields=3, max_modules=3, max_module_depth=1, max_json_depth=3, max_text_chars=50, max_demos=1
)


def nested(depth: int) -> dict[str, Any]:
    spec = QA
    for _ in range(depth):
        reward = {"reward_fn": "tests.unit.programs.sample:brevity"}
        spec = {
            "module": "BestOfN",
            "arguments": {"N": 2, "threshold": 1.0},
            "functions": reward,
            "modules": {"module": spec},
        }
    return spec


def deep(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def register(spec: Any, bounds: TargetBounds = DEFAULT_BOUNDS) -> None:
    allowed = AllowedImports(("tests.unit.programs.sample",))
    check_spec(ProgramSpec.parse(spec, program="p"), allowed, program="p", bounds=bounds)


@pytest.mark.parametrize(
    ("fields", "where"),
    [
        ({"arguments": {"n": 10**8}}, "arguments.n"),
        ({"arguments": {"max_tokens": 10**9}}, "arguments.max_tokens"),
        ({"config": {"self": {"n": 10**8}}}, "config.self.n"),
        ({"config": {"self": {"max_completion_tokens": 10**10}}}, "config.self.max_completion_tokens"),
        ({"module": "MultiChainComparison", "arguments": {"M": 1_000}}, "arguments.M"),
        ({"module": "ReAct", "arguments": {"max_iters": 10**9}, "tools": []}, "arguments.max_iters"),
        ({"module": {"variable": "v", "allowed": ["ReAct"]}, "arguments": {"max_iters": 10**9}}, "arguments.max_iters"),
        ({"signature": {"instructions": "x" * 200_001, "fields": [
            {"name": "q", "direction": "input"}, {"name": "a", "direction": "output"}]}}, "signature.instructions"),
        ({"signature": ", ".join(f"q{n}" for n in range(300)) + " -> a"}, "signature"),
        ({"arguments": {"stop": deep(70)}}, "arguments.stop"),
        ({"state": {"self": {"demos": [{}] * 1_001, "signature": {"fields": [{}, {}]}, "traces": [], "train": []}}},
         "state.self.demos"),
    ],
)  # fmt: skip
def test_a_spec_beyond_a_bound_is_refused_by_name_and_at_once(fields: dict[str, Any], where: str) -> None:
    started = time.process_time()
    with pytest.raises(ProgramSpecError, match="DSPEX_MAX_") as refused:
        register({**QA, **fields})
    assert refused.value.args[1] == where
    assert time.process_time() - started < 1


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({**QA, "module": "ReAct", "tools": ["lookup", "lookup"]}, "tools"),
        ({**QA, "signature": "a, b, c -> d"}, "signature"),
        (nested(2), "modules.module.modules.module"),
        ({**QA, "signature": f"question -> answer: Literal['{'x' * 60}']"}, "signature.answer"),
    ],
)
def test_an_operator_sets_the_bounds(spec: dict[str, Any], where: str) -> None:
    with pytest.raises(ProgramSpecError, match="DSPEX_MAX_") as refused:
        register(spec, SMALL)
    assert refused.value.args[1] == where


def test_the_nested_modules_are_counted() -> None:
    ensemble = {"module": "Ensemble", "modules": {"programs": [QA] * 101}}
    with pytest.raises(ProgramSpecError, match=r"102 modules are more than 100 \(DSPEX_MAX_MODULES\)"):
        register(ensemble)
    register({"module": "Ensemble", "modules": {"programs": [QA] * 3}})


@pytest.mark.parametrize("depth", [100, 5_000, 100_000])
def test_no_depth_ends_in_a_recursion_error(depth: int) -> None:
    spec = "[" * depth + "]" * depth
    for text in (spec, f'{{"module": "Predict", "signature": "q -> a", "arguments": {{"stop": {spec}}}}}'):
        with pytest.raises(ProgramSpecError):
            register(text)
    inside: Any = QA
    for _ in range(depth):
        inside = {"module": "BestOfN", "modules": {"module": inside}}
    with pytest.raises(ProgramSpecError):
        register(inside)


def test_values_that_refer_to_each_other_are_measured_in_time() -> None:
    value: Any = [1]
    for _ in range(100):
        value = [value, value]
    assert DEFAULT_BOUNDS.find_excess_depth(value)


MODULES = {
    "predict": lambda: dspy.Predict("question -> answer"),
    "react": lambda: dspy.ReAct(make_signature("question -> answer"), tools=[sample.lookup]),
    "comparison": lambda: dspy.MultiChainComparison("question -> answer"),
    "best": lambda: dspy.BestOfN(dspy.Predict("question -> answer"), N=2, reward_fn=sample.brevity, threshold=1.0),
}


@pytest.mark.parametrize(
    ("kind", "target", "value"),
    [
        ("predict", "n", 10**8),
        ("predict", "config.n", 10**8),
        ("predict", "config.max_completion_tokens", 10**8),
        ("predict", "max_tokens", 10**7),
        ("predict", "max_tokens", 10**5_000),
        ("predict", "temperature", 10**5_000),
        ("predict", "top_k", 10**9),
        ("predict", "instructions", "x" * 200_001),
        ("predict", "desc.answer", "x" * 200_001),
        ("predict", "demos", json.dumps([{"question": "q"}] * 1_001)),
        ("predict", "demos", "[" * 100_000),
        ("predict", "stop", json.dumps(deep(70))),
        ("predict", "logit_bias", json.dumps({"a": deep(70)})),
        ("comparison", "M", 101),
        ("comparison", "M", 10**9),
        ("best", "N", 101),
        ("best", "fail_count", 10**6),
        ("react", "max_iters", 10**6),
        ("react", "tools", json.dumps(["lookup"] * 101)),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 40 else "",
)
def test_a_value_beyond_a_bound_is_refused_by_name_and_at_once(kind: str, target: str, value: Any) -> None:
    module, started = MODULES[kind](), time.process_time()
    with pytest.raises(ValidationError) as refused:
        bind_values(module, {target: BoundValue("the_variable", value)}, LMScope())
    assert refused.value.args[0] == "the_variable"
    assert len(str(refused.value)) < 600
    assert time.process_time() - started < 1


@pytest.mark.parametrize("attempts", [0, 1, 2, 3, 7])
def test_a_comparison_is_built_at_once_and_as_dspy_builds_it(attempts: int) -> None:
    text = "question, n: int -> answer: float, why"
    theirs, ours = dspy.MultiChainComparison(text, M=attempts), VariableAwareMultiChainComparison(text, M=attempts)
    system = dspy.ChatAdapter().format_system_message
    assert system(signature_of(ours.predict)) == system(signature_of(theirs.predict))
    assert (ours.M, ours.predict.config) == (theirs.M, theirs.predict.config)
    plain = without_attempts(theirs.predict.signature)
    assert plain.equals(make_signature(text))


def test_many_attempts_take_no_longer_than_their_number() -> None:
    """A thousand took half a minute, since each made a signature with all the attempts before it."""
    started = time.process_time()
    VariableAwareMultiChainComparison("question -> answer", M=1_000)
    assert time.process_time() - started < 3
