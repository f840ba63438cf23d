"""Specs of programs as strangers write them: within the grammar, at its bounds, a little beyond, and oddly named."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from tests.harness.value_types import Ticket

PROGRAMS = "tests.harness.programs"
_TYPES = f"{Ticket.__module__}:{Ticket.__name__}"

_ATOMS = [
    "str", "int", "float", "bool", "bytes", "Any", "None", "date", "datetime", "time", "timedelta", "Decimal", "UUID",
    "object", "complex", "list", "dict", "set", "tuple", "frozenset", "dspy.Image", "dspy.Audio", "dspy.History",
    "dspy.Code", "dspy.Tool", "dspy.ToolCalls", "dspy.File", "dspy.Reasoning", "dspy.experimental.Document",
    "Literal['a', 'b']", "Literal[1, None, True]", "tuple[()]", "tuple[int, ...]", _TYPES.replace(":", "."),
]  # fmt: skip
_NO_TYPES = ["", "no.such.Type", "int)", "list[", "Literal[...]", "(lambda: 1)()", "os.PathLike", "'str'", "dict[str]"]
NAMES = st.one_of(
    st.sampled_from(["question", "answer", "context", "self", "class", "items", "keys", "copy", "trajectory", "lm"]),
    st.sampled_from(
        ["config", "demos", "signature", "_private", "ünïcode", "x" * 100, "x" * 101, "", "a b", "__init__"]
    ),
    st.from_regex(r"[a-z][a-z_0-9]{0,8}", fullmatch=True),
    st.text(max_size=6),
)
TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(["[[ ## answer ## ]]", "{question}", "\x00", "x" * 5_000, ""]),
)
# At the bounds of counts, next to them, and far beyond.
COUNTS = st.sampled_from([-1, 0, 1, 2, 3, 99, 100, 101, 128, 129, 1_000, 1_001, 10**9, 10**400, 1.5, True, None, "3"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-99, 10**20) | st.floats(allow_nan=False, allow_infinity=False) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner, max_size=3),
    max_leaves=5,
)


def _composed(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    return st.one_of(
        st.builds("list[{}]".format, inner),
        st.builds("dict[str, {}]".format, inner),
        st.builds("{} | None".format, inner),
        st.builds("tuple[{}, {}]".format, inner, inner),
        st.builds("Union[{}, {}]".format, inner, inner),
        st.builds("Optional[{}]".format, inner),
        st.builds("set[{}]".format, inner),
    )


KINDS = st.recursive(st.sampled_from(_ATOMS), _composed, max_leaves=3)
LIMITS = st.dictionaries(
    st.sampled_from(["gt", "ge", "lt", "le", "multiple_of", "min_length", "max_length", "allow_inf_nan"]),
    st.integers(-2, 5) | st.booleans() | TEXTS,
    max_size=2,
)


def _rarely(usual: st.SearchStrategy[Any], odd: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.integers(0, 9).flatmap(lambda number: odd if number == 0 else usual)


@st.composite
def fields(draw: st.DrawFn, direction: str, names: list[str]) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for name in names:
        field = {"name": name, "direction": direction, "type": draw(_rarely(KINDS, st.sampled_from(_NO_TYPES)))}
        if draw(st.booleans()):
            field |= draw(st.fixed_dictionaries({}, optional={"desc": TEXTS, "prefix": TEXTS, "typed": st.booleans()}))
        if draw(st.integers(0, 4)) == 0:
            field |= {"limits": draw(LIMITS)}
        if draw(st.integers(0, 4)) == 0:
            field |= {"has_default": True, "default": draw(VALUES)}
        made.append(field)
    return made


@st.composite
def signatures(draw: st.DrawFn) -> Any:
    if draw(st.booleans()):
        return draw(
            st.sampled_from(["question -> answer", "a: int, b: list[str] -> c: float", "->", "a ->", "a, a -> a"])
        )
    usual = st.from_regex(r"[a-z]{2,6}", fullmatch=True)
    names = draw(st.lists(_rarely(usual, NAMES), min_size=2, max_size=5, unique=True))
    cut = draw(st.integers(1, len(names) - 1))
    both = [*draw(fields("input", names[:cut])), *draw(fields("output", names[cut:]))]
    return {"fields": both, **draw(st.fixed_dictionaries({}, optional={"instructions": TEXTS}))}


def _inputs_of(signature: Any) -> list[str]:
    if isinstance(signature, dict):
        return [field["name"] for field in signature["fields"] if field["direction"] == "input"]
    return [part.partition(":")[0].strip() for part in signature.partition("->")[0].split(",")]


CONFIG = st.dictionaries(
    st.sampled_from(
        ["temperature", "max_tokens", "n", "top_p", "stop", "seed", "rollout_id", "api_base", "http_client"]
    ),
    _rarely(st.sampled_from([0, 1, 0.5, 16]), COUNTS | VALUES),
    max_size=2,
)
_EXTRAS: dict[str, st.SearchStrategy[Any]] = {
    "config": st.dictionaries(st.sampled_from(["self", "predict", "no.such"]), CONFIG, max_size=1),
    "lm": _rarely(st.just("demo"), st.sampled_from(["nobody", "", "openai/other", "x" * 999])),
    "cache": st.fixed_dictionaries(
        {}, optional={"ttl_s": COUNTS, "share": st.sampled_from(["session", "fleet", "all"])}
    ),
    "bindings": st.dictionaries(st.sampled_from(["temperature", "self.demos", "instructions"]), NAMES, max_size=1),
    "attributes": st.dictionaries(
        st.sampled_from(["self", "predict"]), st.dictionaries(NAMES, VALUES, max_size=1), max_size=1
    ),
    "escaped": st.booleans(),
    "surprise": VALUES,
}


@st.composite
def modules(draw: st.DrawFn, depth: int = 0) -> dict[str, Any]:
    """Draw a spec without what belongs to the whole program."""
    kind = draw(
        st.sampled_from([
            "Predict", "ChainOfThought", "Predict", "ReAct", "MultiChainComparison", "BestOfN", "Refine", "Ensemble",
            "own", "unknown",
        ])
    )  # fmt: skip
    signature = draw(signatures())
    if kind == "own":
        return {"module": f"{PROGRAMS}:{draw(st.sampled_from(['Twice', 'Parallel', 'Nobody', '__class__']))}"}
    if kind == "unknown":
        return {"module": draw(NAMES), "signature": signature}
    count = draw(_rarely(st.integers(1, 3), COUNTS))
    spec: dict[str, Any] = {"module": kind}
    if kind in ("BestOfN", "Refine") and depth < draw(st.sampled_from([2, 3, 10])):
        spec["modules"] = {"module": draw(modules(depth + 1))}
        spec["functions"] = {"reward_fn": draw(_rarely(st.just(f"{PROGRAMS}:reward"), NAMES))}
        spec["arguments"] = {"N": count, "threshold": draw(_rarely(st.just(0.5), VALUES))}
    elif kind == "Ensemble" and depth < 2:
        spec["modules"] = {"programs": draw(st.lists(modules(depth + 1), max_size=2))}
        spec["arguments"] = {"size": count}
    else:
        spec["signature"] = signature
    if kind == "ReAct":
        spec["tools"] = draw(st.lists(_rarely(st.just(f"{PROGRAMS}:reward"), NAMES), max_size=2))
        spec["arguments"] = {"max_iters": count}
    if kind == "MultiChainComparison":
        spec["arguments"] = {"M": count}
    if draw(st.integers(0, 3)) == 0:
        demos = st.lists(st.dictionaries(NAMES, VALUES, max_size=3), max_size=3)
        path = draw(st.sampled_from(["self", "predict", "module.predict"]))
        spec["state"] = {path: {"traces": [], "train": [], "lm": None, "demos": draw(demos)}}
    return spec


@st.composite
def programs(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """Draw a whole program's spec, and inputs that may be for it."""
    spec = draw(modules())
    for name in draw(st.lists(st.sampled_from([*_EXTRAS, *[None] * 12]), max_size=2, unique=True)):
        if name is not None:
            spec[name] = draw(_EXTRAS[name])
    signature = spec.get("signature", "question -> answer")
    names = [name for name in _inputs_of(signature) if name] or ["question"]
    inputs = {name: draw(VALUES) for name in names}
    return spec, draw(_rarely(st.just(inputs), st.dictionaries(NAMES, VALUES, max_size=3)))
