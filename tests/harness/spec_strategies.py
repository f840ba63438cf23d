"""Whole programs that are right by construction: one strategy for each kind of module, and what may go with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.harness.spec_fields import KEYS, TEXTS, VALUES, Signed, signatures

PROGRAMS = "tests.harness.programs"
REWARD = f"{PROGRAMS}:reward"
VARIABLES: Mapping[str, Any] = {
    "temp": 0.5,
    "style": "Answer in verse.",
    "llm": "openai/other",
    "tokens": 200,
    "strategy": "ChainOfThought",
    "stops": '["\\n\\n\\n"]',
}
"""What the session of these programs holds."""


@dataclass(frozen=True)
class Drawn:
    """A program's spec, and inputs for it.

    Attributes:
        kind: of its module.
        spec: as JSON holds it.
        inputs: what it is asked.
        is_fitting: whether the inputs are in the types of its fields.
    """

    kind: str
    spec: dict[str, Any]
    inputs: dict[str, Any]
    is_fitting: bool


@dataclass(frozen=True)
class _Made:
    """A module's spec, the inputs that it takes, and its predictors by path with their numbers of fields."""

    spec: dict[str, Any]
    inputs: st.SearchStrategy[dict[str, Any]]
    predictors: Mapping[str, int]


_CONFIG = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.sampled_from([0, 0.5, 2]),
        "max_tokens": st.sampled_from([1, 16, 1_000_000]),
        "n": st.integers(1, 2),
        "top_p": st.floats(0, 1),
        "stop": st.sampled_from(["\n\n\n", ["a stop"]]),
        "seed": st.integers(0, 99),
        "presence_penalty": st.integers(-2, 2),
        "rollout_id": st.integers(1, 99),
        "top_k": st.integers(1, 9),
        "user": st.just("somebody"),
        "logit_bias": st.just({"50256": -100}),
    },
)


def _signed(kind: str, signed: Signed, predictors: Mapping[str, int], **more: Any) -> _Made:
    return _Made({"module": kind, "signature": signed.spec, **more}, signed.inputs, predictors)


@st.composite
def _predict(draw: st.DrawFn, kind: str) -> _Made:
    signed = draw(signatures())
    more = {"arguments": arguments} if (arguments := draw(st.just({}) | _CONFIG)) else {}
    total = sum(signed.counts)
    paths = {"Predict": {"self": total}, "ChainOfThought": {"predict": total + 1}}
    return _signed(kind, signed, paths.get(kind, {}), **more)


@st.composite
def _agent(draw: st.DrawFn, kind: str) -> _Made:
    signed = draw(signatures())
    arguments = {"max_iters": draw(st.integers(1, 3))}
    tools = draw(st.sampled_from([[REWARD], []] if kind != "ReActV2" else [[REWARD]]))
    more: dict[str, Any] = {} if kind == "ProgramOfThought" else {"tools": tools}
    given, wanted = signed.counts
    paths = {"ReAct": {"react": given + 4, "extract.predict": given + 2 + wanted}}
    return _signed(kind, signed, paths.get(kind, {}), arguments=arguments, **more)


@st.composite
def _comparison(draw: st.DrawFn, kind: str) -> _Made:
    signed, attempts = draw(signatures()), draw(st.integers(1, 3))
    attempt = st.fixed_dictionaries({"reasoning": TEXTS, signed.last_output: VALUES})
    compared = st.lists(attempt, min_size=attempts, max_size=attempts)
    inputs = st.builds(lambda given, tried: {**given, "completions": tried}, signed.inputs, compared)
    spec = {"module": kind, "signature": signed.spec, "arguments": {"M": attempts}}
    return _Made(spec, inputs, {"predict": sum(signed.counts) + attempts + 1})


@st.composite
def _retry(draw: st.DrawFn, kind: str, depth: int) -> _Made:
    inner = draw(_nested(depth + 1))
    arguments: dict[str, Any] = {"N": draw(st.integers(1, 3)), "threshold": draw(st.sampled_from([0.5, 1, 2]))}
    if draw(st.booleans()):
        arguments["fail_count"] = draw(st.integers(1, 3))
    functions = {"reward_fn": REWARD}
    return _Made(
        {"module": kind, "modules": {"module": inner.spec}, "functions": functions, "arguments": arguments},
        inner.inputs,
        {},
    )


@st.composite
def _ensemble(draw: st.DrawFn, kind: str, depth: int) -> _Made:
    inner = draw(st.lists(_nested(depth + 1), min_size=1, max_size=2))
    spec: dict[str, Any] = {"module": kind, "modules": {"programs": [member.spec for member in inner]}}
    if draw(st.booleans()):
        spec["arguments"] = {"size": draw(st.integers(1, len(inner)))}
    return _Made(spec, inner[0].inputs, {})


def _nested(depth: int) -> st.SearchStrategy[_Made]:
    leaves = _predict("Predict") | _predict("ChainOfThought") | _agent("ReAct") | _comparison("MultiChainComparison")
    if depth >= 2:
        return leaves
    return leaves | _retry("BestOfN", depth) | _retry("Refine", depth) | _ensemble("Ensemble", depth)


def _own(name: str) -> st.SearchStrategy[_Made]:
    return st.just(_Made({"module": f"{PROGRAMS}:{name}"}, st.fixed_dictionaries({"question": TEXTS}), {}))


@st.composite
def _threads(draw: st.DrawFn, kind: str) -> _Made:
    arguments = draw(st.fixed_dictionaries({}, optional={"num_threads": st.integers(1, 4), "max_errors": st.just(3)}))
    return _Made({"module": kind, "arguments": arguments}, st.just({"exec_pairs": []}), {})


@st.composite
def _chosen(draw: st.DrawFn, kind: str) -> _Made:
    allowed = [
        "ChainOfThought",
        *draw(st.lists(st.sampled_from(["Predict", "ReAct", "ProgramOfThought"]), unique=True)),
    ]
    signed = draw(signatures())
    choice = _signed("", signed, {}, tools=[REWARD], arguments={"max_iters": 2})
    return _Made({**choice.spec, "module": {"variable": "strategy", "allowed": allowed}}, choice.inputs, {})


KINDS: Mapping[str, Callable[[], st.SearchStrategy[_Made]]] = {
    "Predict": lambda: _predict("Predict"),
    "ChainOfThought": lambda: _predict("ChainOfThought"),
    "ChainOfThoughtWithHint": lambda: _predict("ChainOfThoughtWithHint"),
    "ReAct": lambda: _agent("ReAct"),
    "ReActV2": lambda: _agent("ReActV2"),
    "MultiChainComparison": lambda: _comparison("MultiChainComparison"),
    "BestOfN": lambda: _retry("BestOfN", 0),
    "Refine": lambda: _retry("Refine", 0),
    "Ensemble": lambda: _ensemble("Ensemble", 0),
    "Parallel": lambda: _threads("Parallel"),
    "own Twice": lambda: _own("Twice"),
    "own Parallel": lambda: _own("Parallel"),
    "a variable": lambda: _chosen(""),
    "ProgramOfThought": lambda: _agent("ProgramOfThought"),
    "CodeAct": lambda: _agent("CodeAct"),
    "RLM": lambda: _agent("RLM"),
}
"""A strategy for each kind of module that a spec may name."""

EXECUTE_CODE = ("ProgramOfThought", "CodeAct", "RLM")
"""Those that wait for a worker on prefork."""

_BINDINGS: Mapping[str, str] = {
    "temperature": "temp", "instructions": "style", "model": "llm", "max_tokens": "tokens", "stop": "stops",
}  # fmt: skip
_STEERED = ("Predict", "ChainOfThought", "ReAct", "MultiChainComparison", "a variable")


def _state_of(fields: int) -> st.SearchStrategy[dict[str, Any]]:
    demos = st.lists(st.dictionaries(KEYS, VALUES, max_size=3), max_size=3)
    texts = {"prefix": st.just("Field:"), "description": TEXTS}
    of_fields = st.lists(st.fixed_dictionaries(texts), min_size=fields, max_size=fields)
    signature = st.fixed_dictionaries({"instructions": TEXTS, "fields": of_fields})
    return st.fixed_dictionaries({
        "traces": st.just([]), "train": st.just([]), "lm": st.none(), "demos": demos, "signature": signature,
    })  # fmt: skip


@st.composite
def _beside(draw: st.DrawFn, kind: str, base: _Made) -> dict[str, Any]:
    """Draw what belongs to the whole program."""
    parts: dict[str, st.SearchStrategy[Any]] = {
        "lm": st.sampled_from(["demo", "hasty"]),
        "cache": st.fixed_dictionaries(
            {}, optional={"ttl_s": st.sampled_from([1, 2_592_000]), "share": st.sampled_from(["session", "fleet"])}
        ),
        "format": st.just(1),
    }
    if kind in _STEERED:
        bound_names = st.lists(st.sampled_from(sorted(_BINDINGS)), min_size=1, unique=True)
        parts["bindings"] = bound_names.map(lambda names: {name: _BINDINGS[name] for name in names})
    if base.predictors:
        parts["config"] = st.dictionaries(st.sampled_from(sorted(base.predictors)), _CONFIG, max_size=1)
        parts["state"] = st.fixed_dictionaries({path: _state_of(count) for path, count in base.predictors.items()})
    if kind == "ReAct":
        parts["attributes"] = st.just({"self": {"max_iters": 2}})
    return draw(st.fixed_dictionaries({}, optional=parts))


@st.composite
def programs(draw: st.DrawFn, kind: str) -> Drawn:
    """Draw a program of a kind that a fleet has to take, and inputs that are of its types in half of the cases."""
    base = draw(KINDS[kind]())
    spec = {**base.spec, **draw(_beside(kind, base))}
    fitting, is_fitting = draw(base.inputs), draw(st.booleans())
    if is_fitting:
        return Drawn(kind, spec, fitting, is_fitting)
    wrong = {name: draw(VALUES) for name in fitting}
    return Drawn(kind, spec, draw(st.just(wrong) | st.dictionaries(KEYS | TEXTS, VALUES, max_size=3)), is_fitting)
