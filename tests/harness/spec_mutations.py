"""One deliberate fault in a program's spec that is right otherwise, and what has to become of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hypothesis import strategies as st

from tests.harness.spec_fields import TEXTS, VALUES
from tests.harness.spec_strategies import KINDS, PROGRAMS, REWARD, Drawn, programs

_SIGNED = ("Predict", "ChainOfThought", "ReAct", "MultiChainComparison", "ProgramOfThought")
_PREDICT = {"module": "Predict", "signature": "question -> answer"}
_HUGE = st.sampled_from([101, 129, 1_001, 1_000_001, 10**9, 10**400])
_NO_COUNTS = st.sampled_from([-1, 0, 1.5, None, "3", [], {}, True]) | TEXTS


@dataclass(frozen=True)
class Mutation:
    """A change of a spec.

    Attributes:
        kinds: the kinds of programs that it is for.
        change: draws a change, and makes it in the spec that is given.
        is_refused: whether what comes of it is always refused; otherwise it is refused, or runs and ends.
    """

    kinds: tuple[str, ...]
    change: Callable[[st.DrawFn, dict[str, Any]], None]
    is_refused: bool = True


def _put(*path: str, of: st.SearchStrategy[Any]) -> Callable[[st.DrawFn, dict[str, Any]], None]:
    """Return the change that puts something at a path of keys."""

    def change(draw: st.DrawFn, spec: dict[str, Any]) -> None:
        for key in path[:-1]:
            spec = spec.setdefault(key, {})
        spec[path[-1]] = draw(of)

    return change


def _change_field(**parts: st.SearchStrategy[Any]) -> Callable[[st.DrawFn, dict[str, Any]], None]:
    def change(draw: st.DrawFn, spec: dict[str, Any]) -> None:
        if isinstance(spec["signature"], str):
            spec["signature"] = {"fields": [_field("question", "input"), _field("answer", "output")]}
        fields: list[dict[str, Any]] = spec["signature"]["fields"]
        fields[draw(st.integers(0, len(fields) - 1))] |= {name: draw(value) for name, value in parts.items()}

    return change


def _field(name: str, direction: str) -> dict[str, Any]:
    return {"name": name, "direction": direction}


def _repeat_field(draw: st.DrawFn, spec: dict[str, Any]) -> None:
    _change_field()(draw, spec)
    spec["signature"]["fields"].append(draw(st.sampled_from(spec["signature"]["fields"])))


def _add_fields(draw: st.DrawFn, spec: dict[str, Any]) -> None:
    _change_field()(draw, spec)
    spec["signature"]["fields"] += [_field(f"more_{number}", "output") for number in range(draw(st.integers(201, 300)))]


def _nest(draw: st.DrawFn, spec: dict[str, Any]) -> None:
    inner = dict(_PREDICT)
    for _ in range(draw(st.integers(8, 30))):
        inner = {"module": "Refine", "modules": {"module": inner}, "functions": {"reward_fn": REWARD}}
        inner |= {"arguments": {"N": 1, "threshold": 0.5}}
    spec.clear()
    spec |= {"module": "BestOfN", "modules": {"module": inner}, "functions": {"reward_fn": REWARD}}
    spec |= {"arguments": {"N": 1, "threshold": 0.5}}


def _deepen(draw: st.DrawFn, spec: dict[str, Any]) -> None:
    value: Any = draw(VALUES)
    for _ in range(draw(st.integers(65, 80))):  # a request as a whole may be 100 deep at the gateway
        value = [value]
    spec.setdefault("config", {})["self"] = {"logit_bias": {"1": value}}


def _many(what: str, of: Any) -> Callable[[st.DrawFn, dict[str, Any]], None]:
    return _put(what, of=st.integers(101, 300).map(lambda count: [of] * count))


_BROKEN_SIGNATURES = st.sampled_from(
    [
        "",
        "->",
        "a ->",
        "a, a -> b",
        "a -> b, b",
        "a -> b -> c",
        "a b -> c",
        "a: -> b",
        "a: list[ -> b",
        "1 -> b",
        "a: int = -> b",
        "a: int = f() -> b",
        "question",
        {"fields": []},
        {"fields": [{}]},
        {"instructions": "x"},
        [],
        7,
        {"fields": [_field("a", "input")], "more": 1},
    ]
)
_NO_FIELD_NAMES = st.sampled_from(
    [
        "",
        " ",
        "a b",
        "1a",
        "_private",
        "__init__",
        "a-b",
        "a.b",
        "fields",
        "signature",
        "instructions",
        "model_config",
        "x" * 101,
        "a\x00",
        "\ud83d",
    ]
)
_NO_TYPES = st.sampled_from(
    [
        "",
        "no.such.Type",
        "int)",
        "list[",
        "Literal[...]",
        "(lambda: 1)()",
        "os.PathLike",
        "'str'",
        "list[" * 30 + "int" + "]" * 30,
        "int()",
        "x" * 5_000,
        "subprocess.Popen",
        7,
        None,
        f"{PROGRAMS}.reward",
        "dspy.Code[1]",
        "dict[str][int]",
    ]
)
_NO_MODULES = st.sampled_from(
    [
        "",
        "Predictt",
        "os:system",
        "os.system",
        f"{PROGRAMS}:Nobody",
        f"{PROGRAMS}:reward",
        7,
        None,
        f"{PROGRAMS}:__class__",
        "tests.no_such:Thing",
        "Module",
        "dspy:Predict",
        [],
        {},
        {"variable": "strategy", "allowed": []},
        {"variable": "strategy", "allowed": ["Nope"]},
        {"allowed": ["Predict"]},
    ]
)
_NO_KEYWORDS = st.sampled_from(
    [
        "api_base",
        "api_key",
        "http_client",
        "headers",
        "extra_headers",
        "model",
        "timeout",
        "default_headers",
        "mock_response",
        "organization ",
        "Temperature",
        "",
        "callbacks",
    ]
)

MUTATIONS: Mapping[str, Mutation] = {
    "a count beyond its bound": Mutation(
        ("ReAct", "BestOfN", "Refine"),
        lambda draw, spec: spec["arguments"].update(
            {"max_iters" if spec["module"] == "ReAct" else "N": draw(_HUGE.filter(lambda count: count > 1_000))}
        ),
    ),
    "attempts beyond their bound": Mutation(("MultiChainComparison",), _put("arguments", "M", of=_HUGE)),
    "an ensemble's size beyond its bound": Mutation(("Ensemble",), _put("arguments", "size", of=_HUGE)),
    "completions beyond their bound": Mutation(
        ("Predict",), _put("arguments", "n", of=_HUGE.filter(lambda n: n > 128))
    ),
    "a count that is none": Mutation(
        ("MultiChainComparison",), _put("arguments", "M", of=_NO_COUNTS), is_refused=False
    ),
    "rounds that are none": Mutation(
        ("ReAct", "ReActV2"), _put("arguments", "max_iters", of=_NO_COUNTS), is_refused=False
    ),
    "attempts that are none": Mutation(("BestOfN", "Refine"), _put("arguments", "N", of=_NO_COUNTS), is_refused=False),
    "a size that is none": Mutation(("Ensemble",), _put("arguments", "size", of=_NO_COUNTS), is_refused=False),
    "threads that are none": Mutation(("Parallel",), _put("arguments", "num_threads", of=_NO_COUNTS), is_refused=False),
    "any threshold": Mutation(("BestOfN", "Refine"), _put("arguments", "threshold", of=VALUES), is_refused=False),
    "any LM keyword's value": Mutation(
        ("Predict", "ChainOfThought"), _put("arguments", "temperature", of=VALUES), is_refused=False
    ),
    "any value in a config": Mutation(
        ("Predict",),
        _put(
            "config",
            "self",
            of=st.dictionaries(
                st.sampled_from(
                    ["temperature", "n", "stop", "max_tokens", "logit_bias", "response_format", "tool_choice"]
                ),
                VALUES,
                min_size=1,
                max_size=2,
            ),
        ),
        is_refused=False,
    ),
    "a foreign LM keyword": Mutation(
        ("Predict",), _put("config", "self", of=_NO_KEYWORDS.map(lambda name: {name: "x"}))
    ),
    "a foreign argument": Mutation(_SIGNED, _put("arguments", "no_such", of=VALUES)),
    "a broken signature": Mutation(_SIGNED, _put("signature", of=_BROKEN_SIGNATURES)),
    "an odd field name": Mutation(_SIGNED, _change_field(name=_NO_FIELD_NAMES)),
    "any field name": Mutation(_SIGNED, _change_field(name=TEXTS), is_refused=False),
    "a type that is none": Mutation(_SIGNED, _change_field(type=_NO_TYPES)),
    "a direction that is none": Mutation(_SIGNED, _change_field(direction=TEXTS)),
    "any limits": Mutation(
        _SIGNED,
        _change_field(
            limits=st.dictionaries(
                st.sampled_from(["gt", "le", "multiple_of", "min_length", "max_length", "allow_inf_nan"]),
                VALUES,
                max_size=2,
            )
        ),
        is_refused=False,
    ),
    "any default": Mutation(_SIGNED, _change_field(has_default=st.just(True), default=VALUES), is_refused=False),
    "a field twice": Mutation(_SIGNED, _repeat_field),
    "too many fields": Mutation(_SIGNED, _add_fields),
    "an unknown class": Mutation(tuple(KINDS), _put("module", of=_NO_MODULES)),
    "any class": Mutation(tuple(KINDS), _put("module", of=TEXTS)),
    "a part that there isn't": Mutation(tuple(KINDS), _put("surprise", of=VALUES)),
    "a part of the wrong type": Mutation(
        tuple(KINDS),
        lambda draw, spec: spec.update(
            {
                draw(
                    st.sampled_from(["arguments", "bindings", "config", "attributes", "functions", "modules", "format"])
                ): draw(st.sampled_from([7, "text", [1], None, 1.5]))
            }
        ),
    ),
    "modules too deep": Mutation(("Predict",), _nest),
    "a value too deep": Mutation(("Predict",), _deepen),
    "too many tools": Mutation(("ReAct",), _many("tools", REWARD)),
    "a tool that is none": Mutation(
        ("ReAct",),
        _put(
            "tools",
            of=st.sampled_from(
                [["os:system"], ["nope"], [""], [7], [f"{PROGRAMS}:Nobody"], ["subprocess.run"], "text"]
            ),
        ),
    ),
    "any tools": Mutation(
        ("ReAct", "ReActV2"),
        _put(
            "tools",
            of=st.lists(
                st.sampled_from([REWARD, f"{PROGRAMS}:Twice", f"{PROGRAMS}:os.getpid", f"{PROGRAMS}.reward"]),
                max_size=3,
            ),
        ),
        is_refused=False,
    ),
    "a module within that is none": Mutation(
        ("BestOfN", "Refine"),
        _put(
            "modules",
            "module",
            of=st.sampled_from(
                [
                    {},
                    {"module": "Nope"},
                    [],
                    7,
                    {**_PREDICT, "lm": "demo"},
                    {**_PREDICT, "bindings": {"temperature": "t"}},
                ]
            ),
        ),
    ),
    "no programs": Mutation(("Ensemble",), _put("modules", "programs", of=st.just([])), is_refused=False),
    "a binding without effect": Mutation(
        ("Predict",),
        _put(
            "bindings",
            of=st.sampled_from(
                [
                    {"": "temp"},
                    {"no_such": "temp"},
                    {"self.demos": "temp"},
                    {"config.api_base": "temp"},
                    {"desc.no_such": "temp"},
                ]
            ),
        ),
    ),
    "a variable that there isn't": Mutation(("Predict",), _put("bindings", "temperature", of=TEXTS), is_refused=False),
    "a variable of the wrong kind": Mutation(
        ("Predict", "ReAct"),
        _put(
            "bindings",
            of=st.dictionaries(
                st.sampled_from(["temperature", "instructions", "model", "n", "adapter"]),
                st.sampled_from(["style", "temp"]),
                min_size=1,
            ),
        ),
        is_refused=False,
    ),
    "an LM profile that there isn't": Mutation(tuple(KINDS), _put("lm", of=TEXTS), is_refused=False),
    "a cache that is none": Mutation(
        tuple(KINDS),
        _put(
            "cache", of=st.sampled_from([{"ttl_s": 0}, {"ttl_s": 10**9}, {"share": "all"}, {"x": 1}, 7, [], "session"])
        ),
    ),
    "a state that doesn't fit": Mutation(
        ("Predict",),
        _put(
            "state",
            of=st.sampled_from(
                [
                    {"predict": {}},
                    {"self": {"demos": []}},
                    {"self": 7},
                    {"self": {"lm": {"model": "x"}}},
                    [],
                    7,
                    {"self": {"demos": [], "signature": {"fields": []}}},
                    {"self": {"no_such": 1}},
                ]
            ),
        ),
    ),
    "any attribute": Mutation(
        ("ReAct", "Predict"),
        _put(
            "attributes",
            "self",
            of=st.dictionaries(
                st.sampled_from(["max_iters", "stage", "forward", "__class__", "_compiled", "tools"]),
                VALUES,
                min_size=1,
            ),
        ),
        is_refused=False,
    ),
}
"""By name: every way in which these specs are broken, or only odd."""


@st.composite
def mutants(draw: st.DrawFn, mutation: str) -> Drawn:
    """Draw a program with one fault."""
    found = MUTATIONS[mutation]
    program = draw(programs(draw(st.sampled_from(found.kinds))))
    found.change(draw, program.spec)
    return Drawn(program.kind, program.spec, program.inputs, is_fitting=False)
