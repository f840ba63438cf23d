"""Hostile specs: whoever can write to the registry still can't run a line of code on a worker or take a key away."""

from __future__ import annotations

import json
import os
import pickle
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.exceptions import ProgramSpecError, UnknownModuleError
from snakepit_bridge.programs.build import check_spec
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.spec import MAX_SPEC_BYTES, ProgramSpec
from tests.harness.preloaded import run_preloaded
from tests.harness.waiting import PATIENCE_S

ALLOWED = AllowedImports(("tests.unit.programs.sample",))
SAMPLE = "tests.unit.programs.sample"

QA: dict[str, Any] = {"module": "Predict", "signature": "question -> answer"}
FIELD = {"name": "question", "direction": "input"}
ANSWER = {"name": "answer", "direction": "output"}
STATE = {"traces": [], "train": [], "demos": [], "lm": None}
SAID = {"instructions": "x", "fields": [{"prefix": "a", "description": "b"}] * 2}


class Bomb:
    """What a pickle runs when it is read."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/never",)  # pyright: ignore[reportDeprecated]


def field(kind: str) -> dict[str, Any]:
    return {**QA, "signature": {"fields": [{**FIELD, "type": kind}, ANSWER]}}


def signature(text: str) -> dict[str, Any]:
    return {**QA, "signature": text}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


def within(depth: int) -> dict[str, Any]:
    spec = QA
    for _ in range(depth):
        spec = {"module": "BestOfN", "modules": {"module": spec}}
    return spec


CORPUS: dict[str, Any] = {
    # Import tricks: DSPy itself imports the unknown names of a signature string.
    "import of a module": signature("x: evil_module -> y"),
    "import of an attribute": signature("x: evil_module.Thing -> y"),
    "import of a submodule": signature("x: os.path.join -> y"),
    "import inside brackets": signature("x: list[evil_module.Thing] -> y"),
    "import inside a union": signature("x: int | evil_module.Thing -> y"),
    "import in an output": signature("x -> y: dict[str, evil_module.Thing]"),
    "a call": signature("x: __import__('evil_module') -> y"),
    "a call in a Literal": signature("x: Literal[__import__('evil_module')] -> y"),
    "an f-string": signature("x: Literal[f'{__import__(\"evil_module\")}'] -> y"),
    "a lambda": field("(lambda: __import__('evil_module'))()"),
    "a comprehension": field("[__import__('evil_module') for _ in (1,)][0]"),
    "a walrus": field("(x := __import__('evil_module'))"),
    "a star": field("tuple[*__import__('evil_module')]"),
    "a second statement": field("int\n__import__('evil_module')"),
    "a string annotation": field("'__import__(\"evil_module\")'"),
    "a forward reference": field("ForwardRef('evil_module.x')"),
    "an annotated type": field("Annotated[int, __import__('evil_module')]"),
    # Dunder paths.
    "globals of a tool": {**QA, "module": "ReAct", "tools": [f"{SAMPLE}:lookup.__globals__"]},
    "builtins of a module": {**QA, "module": "ReAct", "tools": [f"{SAMPLE}:__builtins__.exec"]},
    "class of a type": field(f"{SAMPLE}.Person.__class__"),
    "subclasses of a type": field("str.__class__.__mro__"),
    "a dunder module": {"module": "__main__:Thing"},
    "a dunder in the middle": {"module": f"{SAMPLE}.__dict__:Summarize"},
    "a dunder field": signature("__class__ -> y"),
    "a dunder binding": {**QA, "bindings": {"__class__": "v"}},
    "a dunder path in a binding": {**QA, "bindings": {"__class__.temperature": "v"}},
    "a private binding": {**QA, "bindings": {"_bound": "v"}},
    "forward as a binding": {**QA, "bindings": {"forward": "v"}},
    "a dunder predictor": {**QA, "config": {"__class__": {"temperature": 1}}},
    "a dunder in the state": {**QA, "state": {"self": {**STATE, "signature": SAID, "__class__": "x"}}},
    "forward in the state": {**QA, "state": {"self": {**STATE, "signature": SAID, "forward": "x"}}},
    "callbacks in the state": {**QA, "state": {"self": {**STATE, "signature": SAID, "callbacks": []}}},
    "callbacks as an argument": {**QA, "arguments": {"callbacks": ["x"]}},
    # Other code.
    "a shell": {"module": "os:system"},
    "a subprocess": {"module": "subprocess:Popen"},
    "eval": {"module": "builtins:eval"},
    "a shell as a tool": {**QA, "module": "ReAct", "tools": ["os:system"]},
    "a shell through an allowed module": {**QA, "module": "ReAct", "tools": [f"{SAMPLE}:os.system"]},
    "a relative module": {"module": ".evil_module:Thing"},
    "a path as a module": {"module": "/tmp/evil_module.py:Thing"},
    "a URL as a module": {"module": "http://elsewhere/evil_module:Thing"},
    "a module of a like name": {"module": f"{SAMPLE}x:Thing"},
    "an unregistered name": {**QA, "module": "EvilModule"},
    "a dotted name": {**QA, "module": "dspy.Predict"},
    "an interpreter": {**QA, "module": "ProgramOfThought", "arguments": {"interpreter": "dspy.LocalInterpreter"}},
    "the unsafe interpreter": {**QA, "functions": {"interpreter_factory": "dspy:LocalInterpreter"}},
    "a shell as a reward": {**QA, "functions": {"reward_fn": "os:system"}},
    "a shell within": {"module": "BestOfN", "modules": {"module": {"module": "os:system"}}},
    "a tool of no one's": {**QA, "module": "ReAct", "tools": ["exec"]},
    # Keys and endpoints.
    "a key within": {"module": "BestOfN", "modules": {"module": {**QA, "config": {"self": {"api_key": "x"}}}}},
    "an endpoint": {**QA, "config": {"self": {"api_base": "http://elsewhere"}}},
    "an endpoint as an argument": {**QA, "arguments": {"api_base": "http://elsewhere"}},
    "an endpoint by another name": {**QA, "config": {"self": {"base_url": "http://elsewhere"}}},
    "a header": {**QA, "config": {"self": {"extra_headers": {"a": "b"}}}},
    "a body": {**QA, "config": {"self": {"extra_body": {"a": "b"}}}},
    "a key": {**QA, "config": {"self": {"api_key": "x"}}},
    "a model": {**QA, "config": {"self": {"model": "openai/other"}}},
    "an LM in the state": {**QA, "state": {"self": {**STATE, "signature": SAID, "lm": {"model": "x"}}}},
    # Pickles, and things that aren't JSON.
    "a pickle": pickle.dumps(Bomb()),
    "a pickle in base64": '"gASVHwAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAR0cnVllIWUUpQu"',
    "a pickle in a field": {**QA, "state": pickle.dumps(Bomb()).decode("latin-1")},
    "yaml": b"!!python/object/apply:os.system ['true']",
    "python": b"__import__('evil_module')",
    "NaN as the module": b'{"module": NaN}',
    "nothing": b"",
    "null": b"null",
    "not UTF-8": b"\xff\xfe\x00",
    # Too much of it.
    "oversized": b'{"module": "' + b"x" * MAX_SPEC_BYTES + b'"}',
    "a long name": b'{"module": "' + b"x" * (MAX_SPEC_BYTES - 100) + b'"}',
    "deep JSON": b'{"arguments":' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    "deep arguments": {**QA, "arguments": {"x": nested(600)}},
    "deep types": field("list[" * 400 + "int" + "]" * 400),
    "deep unions": field("|".join(["int"] * 3_000)),
    "deep parentheses": field("(" * 1_500 + "int" + ")" * 1_500),
    "deep modules": within(30),
    "very deep modules": within(400),
    "a long type": field("Literal[" + ",".join(f"'{n}'" for n in range(5_000)) + "]"),
    "a long path": {"module": f"{SAMPLE}:" + "x" * 5_000},
    "many fields": {**QA, "signature": {"fields": [{**FIELD, "name": f"f{n}"} for n in range(500)]}},
    "many tools": {**QA, "module": "ReAct", "tools": [f"{SAMPLE}:lookup"] * 500},
    # Reserved names.
    **{
        f"the field {name}": signature(f"{name} -> y")
        for name in ("fields", "signature", "instructions", "model_config", "self", "config", "lm", "demos")
    },
    **{f"the output {name}": signature(f"x -> {name}") for name in ("fields", "signature", "model_validate", "_x")},
    # Things in the wrong place.
    "unknown keys": {**QA, "exec": "import evil_module"},
    "code in a field": {**QA, "signature": {"fields": [{**FIELD, "default_factory": "evil_module"}, ANSWER]}},
    "a function as a module": {"module": f"{SAMPLE}:lookup"},
    "an instance as a tool": {**QA, "module": "ReAct", "tools": [f"{SAMPLE}:VALUE"]},
    "a class that isn't a module": {"module": f"{SAMPLE}:Person"},
    "a list for a name": {**QA, "module": ["Predict"]},
}  # fmt: skip


@pytest.fixture
def evil_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module on the path that leaves a mark if anything imports it."""
    mark = tmp_path / "executed"
    (tmp_path / "evil_module.py").write_text(f"open({str(mark)!r}, 'w').close()\nclass Thing: pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield mark
    sys.modules.pop("evil_module", None)


WATCHED = (
    "os.system", "subprocess.Popen", "os.exec", "os.fork", "os.posix_spawn", "socket.connect", "pickle.find_class",
)  # fmt: skip


def to_wire(spec: Any) -> Any:
    """The spec as it comes: bytes as they are, everything else through JSON."""
    return spec if isinstance(spec, (bytes, str)) else json.dumps(spec)


@pytest.mark.parametrize("kind", CORPUS)
def test_it_is_refused_by_name_and_nothing_of_it_runs(kind: str, evil_module: Path) -> None:
    before = set(sys.modules)

    with pytest.raises((ProgramSpecError, UnknownModuleError)) as refused:
        check_spec(ProgramSpec.parse(to_wire(CORPUS[kind]), program="qa"), ALLOWED, program="qa")

    assert not evil_module.exists()
    assert not {name for name in set(sys.modules) - before if name.startswith("evil")}
    assert len(str(refused.value)) < 2_000


def test_the_mark_would_be_seen(evil_module: Path) -> None:
    """DSPy itself falls for it, so the corpus asks the right question."""
    script = f"import sys, dspy; sys.path.insert(0, {str(evil_module.parent)!r}); dspy.Signature('x: evil_module -> y')"
    # It does say that a module is no type, but only after it has run it.
    run_preloaded([sys.executable, "-c", script], timeout=PATIENCE_S)

    assert evil_module.exists()


def test_no_process_is_started_and_no_socket_opened_by_any_of_it() -> None:
    """An audit hook can't be taken away again, so this runs in a process of its own."""
    script = f"""
import sys
sys.path.insert(0, {str(Path.cwd())!r})
import tests.unit.programs.test_hostile as hostile
seen = []
watched = {WATCHED!r}
sys.addaudithook(lambda name, args: seen.append((name, repr(args)[:200])) if name in watched else None)
refused = 0
for kind, spec in hostile.CORPUS.items():
    try:
        parsed = hostile.ProgramSpec.parse(hostile.to_wire(spec), program="qa")
        hostile.check_spec(parsed, hostile.ALLOWED, program="qa")
    except (hostile.ProgramSpecError, hostile.UnknownModuleError):
        refused += 1
print(refused == len(hostile.CORPUS), seen)
"""
    done = run_preloaded([sys.executable, "-c", script], timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr

    assert done.stdout.splitlines()[-1] == "True []"
