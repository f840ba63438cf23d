"""Bound programs: one per spec and values, found again by content, never changed, and never more than the bound."""

from __future__ import annotations

import asyncio
import copy
import math
import sys
from collections.abc import Mapping
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import dspy
import pytest
from pydantic import SecretStr

from snakepit_bridge.dspy_integration.module_tree import predictors
from snakepit_bridge.exceptions import (
    ConfigurationError,
    ProgramSpecError,
    UnknownModuleError,
    ValidationError,
    VariableNotFoundError,
)
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.programs import bound as bound_module
from snakepit_bridge.programs.bound import BoundPrograms
from snakepit_bridge.programs.build import serialize_module
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.registry import Program
from snakepit_bridge.programs.spec import ProgramSpec, digest
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.testing import RecordingLM
from snakepit_bridge.variables import Variable
from tests.harness.preloaded import run_preloaded
from tests.harness.signatures import make_signature, signature_of
from tests.unit.programs import sample

PROFILES = LMProfiles(
    [
        LMProfile("fast", "openai/demo-fast", "http://127.0.0.1:1/v1", SecretStr("k"), models=("openai/demo-other",)),
        LMProfile("deep", "openai/demo-deep", "http://127.0.0.1:1/v1", SecretStr("k")),
    ]
)
ROOT = Path(__file__).parents[3]
VALUES = {"t": 0.5, "style": "Be brief.", "llm": "deep", "unrelated": 1}


def programs(profiles: LMProfiles = PROFILES) -> BoundPrograms:
    return BoundPrograms(profiles, AllowedImports(("tests.unit.programs.sample",)))


def program(module: Any = None, *, version: int = 1, **options: Any) -> Program:
    spec = serialize_module(module or dspy.Predict("question -> answer"), program="qa", **options)
    return Program("qa", version, digest(spec.encode()), spec)


def snapshot(revision: int = 1, **values: Any) -> Snapshot:
    variables = {name: Variable.declare(name, value) for name, value in {**VALUES, **values}.items()}
    return Snapshot("s", Token(1, revision), variables, confirmed_at=0.0)


def configs(module: Any) -> Mapping[str, Any]:
    return {path: dict(predictor.config) for path, predictor in predictors(module)}


def test_the_bound_values_are_where_dspy_reads_them() -> None:
    bindings = {"temperature": "t", "instructions": "style", "model": "llm"}
    bound = programs().bind(program(bindings=bindings), snapshot())

    assert configs(bound.module) == {"": {"temperature": 0.5}}
    assert bound.module.signature.instructions == "Be brief."
    assert (bound.choice.profile, bound.choice.lm.model) == ("deep", "openai/demo-deep")
    assert bound.module.lm is bound.choice.lm
    assert bound.variables == {"t": 0.5, "style": "Be brief.", "llm": "deep"}
    assert bound.module_name == "Predict"


def test_the_same_values_find_the_same_bound_program() -> None:
    known, qa = programs(), program(bindings={"temperature": "t"})
    first = known.bind(qa, snapshot(1))

    assert known.bind(qa, snapshot(2)) is first
    assert known.bind(qa, snapshot(3, unrelated=2, more=3)) is first


def test_a_changed_value_makes_a_new_one_and_leaves_the_old_as_it_was() -> None:
    known, qa = programs(), program(bindings={"temperature": "t"})
    first = known.bind(qa, snapshot(1))
    second = known.bind(qa, snapshot(2, t=0.9))

    assert second is not first
    assert configs(first.module) == {"": {"temperature": 0.5}}
    assert configs(second.module) == {"": {"temperature": 0.9}}
    assert known.bind(qa, snapshot(3, t=0.5)) is first


@pytest.mark.parametrize(("value_a", "other"), [(1, 1.0), (True, 1), ("1", 1)])
def test_values_that_are_equal_in_python_but_not_on_the_wire_are_kept_apart(value_a: Any, other: Any) -> None:
    known, qa = programs(), program(sample.Summarize(), bindings={"tone": "x"})

    def bind(value: Any) -> Any:
        try:
            return known.bind(qa, snapshot(x=value))
        except ValidationError:
            return None  # the attribute is a text, so it refuses most of them; what counts is that none is mixed up

    assert bind(value_a) is None or bind(value_a) is not bind(other)
    assert known.bind(qa, snapshot(x="warm")).module.tone == "warm"


def test_nan_finds_itself() -> None:
    known = programs()
    spec = ProgramSpec.parse(
        {"module": {"variable": "m"}, "signature": "q -> a", "bindings": {"user": "u"}}, program="qa"
    )
    qa = Program("qa", 1, digest(spec.encode()), spec)

    first = known.bind(qa, snapshot(m="Predict", u="x", odd=math.nan))

    assert known.bind(qa, snapshot(m="Predict", u="x", odd=math.nan)) is first


def test_versions_and_modules_are_kept_apart() -> None:
    known = programs()
    first, second = program(version=1), program(version=2)

    assert known.bind(first, snapshot()) is not known.bind(second, snapshot())
    assert known.bind(second, snapshot()).program.version == 2


def test_a_module_type_variable_decides_what_runs_and_stands_in_the_variables() -> None:
    qa = program(choose_by="strategy", among=("Predict", "ChainOfThought"), bindings={"temperature": "t"})
    known = programs()

    plain, thinking = (
        known.bind(qa, snapshot(strategy="predict")),
        known.bind(qa, snapshot(strategy="ChainOfThought")),
    )

    assert (plain.module_name, thinking.module_name) == ("Predict", "ChainOfThought")
    assert thinking.variables == {"strategy": "ChainOfThought", "t": 0.5}
    assert configs(thinking.module) == {"predict": {"temperature": 0.5}}


def test_a_module_outside_the_programs_list_is_refused() -> None:
    qa = program(choose_by="strategy", among=("Predict", "ChainOfThought"))

    with pytest.raises(UnknownModuleError, match=r"ReAct.*ChainOfThought, Predict"):
        programs().bind(qa, snapshot(strategy="ReAct"))


def test_a_missing_variable_a_bad_value_and_an_unknown_profile_are_named_errors() -> None:
    known = programs()

    with pytest.raises(VariableNotFoundError, match="nowhere"):
        known.bind(program(bindings={"temperature": "nowhere"}), snapshot())
    with pytest.raises(ValidationError, match="from 0 to 2"):
        known.bind(program(bindings={"temperature": "t"}), snapshot(t=5.0))
    with pytest.raises(ValidationError, match="deep, fast"):
        known.bind(program(bindings={"model": "llm"}), snapshot(llm="elsewhere"))
    with pytest.raises(ValidationError, match="lm of program qa"):
        known.bind(program(lm="elsewhere"), snapshot())
    with pytest.raises(ConfigurationError, match="No LM profile"):
        programs(LMProfiles()).bind(program(), snapshot())


def test_a_spec_that_names_a_package_that_is_not_allowed_here_is_refused() -> None:
    qa = program(dspy.ReAct(make_signature("question -> answer"), tools=[sample.lookup]))

    with pytest.raises(ProgramSpecError, match="isn't in an allowed package"):
        BoundPrograms(PROFILES, AllowedImports()).bind(qa, snapshot())


def test_a_refusal_is_not_remembered() -> None:
    known, qa = programs(), program(bindings={"temperature": "t"})
    with pytest.raises(ValidationError):
        known.bind(qa, snapshot(1, t=5.0))

    assert configs(known.bind(qa, snapshot(2, t=0.5)).module) == {"": {"temperature": 0.5}}


def test_a_bound_program_is_frozen() -> None:
    bound = programs().bind(program(), snapshot())

    with pytest.raises(FrozenInstanceError):
        bound.module_name = "Other"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("module", "fields"),
    [
        (dspy.Predict("question, n: int -> answer"), ["question", "n"]),
        (dspy.ChainOfThought("question -> answer"), ["question"]),
        (dspy.ReAct(make_signature("question -> answer"), tools=[sample.lookup]), ["question"]),
        (dspy.ProgramOfThought("question -> answer"), ["question"]),
        (sample.Summarize(), ["text"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_inputs_are_those_of_the_task(module: Any, fields: list[str] | None) -> None:
    bound = programs().bind(program(module), snapshot())

    assert (None if bound.inputs.is_open else list(bound.inputs.fields)) == fields


def test_there_are_never_more_than_the_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bound_module, "_MAX_BOUND", 8)
    known, qa = programs(), program(bindings={"seed": "n"})
    first = known.bind(qa, snapshot(n=0))

    for n in range(1, 100):
        assert known.bind(qa, snapshot(n=n)).module.config == {"seed": n}
        assert known.bind(qa, snapshot(n=max(n - 3, 0))).module.config == {"seed": max(n - 3, 0)}

    assert len(known._bound) == 8
    assert known.bind(qa, snapshot(n=0)) is not first


@pytest.mark.parametrize("rebinds", [3_000, pytest.param(100_000, marks=pytest.mark.soak)])
def test_rebinding_for_ever_takes_no_more_memory(rebinds: int) -> None:
    # In a process of its own, since other tests leave threads behind that allocate meanwhile.
    ran = run_preloaded([sys.executable, "-m", "tests.unit.programs.rebinding", str(rebinds)], cwd=ROOT)
    assert ran.returncode == 0, ran.stderr
    # One bound program is some 3 kB: a leak of any part of it would be megabytes.
    assert int(ran.stdout) < 100_000


def test_rebinding_keeps_the_pristine_instructions() -> None:
    """Changing a changed signature would pile texts up, until Python's recursion limit."""
    known, qa = (
        programs(),
        program(
            dspy.ReAct(make_signature("question -> answer"), tools=[sample.lookup]), bindings={"instructions": "i"}
        ),
    )

    for n in range(400):
        known.bind(qa, snapshot(i=f"Text {n}."))

    react = dict(predictors(known.bind(qa, snapshot(i="The last.")).module))["react"]
    written = signature_of(react).instructions
    assert written.startswith("The last.\n")
    assert "Text" not in written


async def test_calls_at_the_same_time_under_different_values_do_not_disturb_each_other() -> None:
    with RecordingLM() as server:
        profiles = LMProfiles([LMProfile("demo", "openai/demo", server.url, SecretStr("k"))])
        known, qa = programs(profiles), program(dspy.ChainOfThought("question -> answer"), bindings={"seed": "n"})
        before = {n: configs(known.bind(qa, snapshot(n=n)).module) for n in range(8)}

        async def ask(number: int) -> None:
            await known.bind(qa, snapshot(n=number % 8)).acall(question=f"#{number}")

        await asyncio.gather(*(ask(number) for number in range(160)))

        sent = {request.inputs["question"]: request.body["seed"] for request in server.requests}
        assert sent == {f"#{number}": number % 8 for number in range(160)}
        assert {n: configs(known.bind(qa, snapshot(n=n)).module) for n in range(8)} == before


async def test_a_call_leaves_the_bound_module_as_it_was() -> None:
    with RecordingLM() as server:
        profiles = LMProfiles([LMProfile("demo", "openai/demo", server.url, SecretStr("k"))])
        qa = program(
            dspy.ReAct(make_signature("question -> answer"), tools=[sample.lookup]), bindings={"temperature": "t"}
        )
        bound = programs(profiles).bind(qa, snapshot())
        before = copy.deepcopy({path: {**vars(p), "lm": None} for path, p in predictors(bound.module)})

        prediction = await bound.acall(question="What is a book?")

        assert {path: {**vars(p), "lm": None} for path, p in predictors(bound.module)} == before
        assert bound.module.history == []
        assert prediction.get_lm_usage()


# ---------------------------------------------------------------- modules that a call uses up, and nested ones


def best(inner: Any = None) -> Any:
    return dspy.BestOfN(
        inner or dspy.ChainOfThought("question -> answer"), N=2, reward_fn=sample.brevity, threshold=2.0, fail_count=1
    )


async def test_best_of_n_has_its_fail_count_anew_in_each_call() -> None:
    with RecordingLM() as server:
        profiles = LMProfiles([LMProfile("demo", "openai/demo", server.url, SecretStr("k"))])
        bound = programs(profiles).bind(program(best(), bindings={"module.temperature": "t"}), snapshot())

        await asyncio.gather(*(bound.acall(question=f"#{number}") for number in range(12)))

        assert bound.is_stateful
        assert bound.module.fail_count == 1
        assert len(server.requests) == 24
        server.assert_all_sent(temperature=0.5)


@pytest.mark.parametrize(
    ("module", "fields"),
    [
        (best(), ["question"]),
        (best(dspy.ReAct(make_signature("question -> answer"), tools=[sample.lookup])), ["question"]),
        (dspy.MultiChainComparison("question -> answer"), None),
        (dspy.Flex("question -> answer"), ["question"]),
        (dspy.CodeAct("question -> answer", tools=[sample.lookup]), ["question"]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_inputs_of_wrapped_modules_are_those_of_the_task(module: Any, fields: list[str] | None) -> None:
    bound = programs().bind(program(module), snapshot())

    assert (None if bound.inputs.is_open else list(bound.inputs.fields)) == fields


@pytest.mark.parametrize(
    "module",
    [dspy.Predict("question -> answer"), dspy.ReAct(make_signature("question -> answer"), tools=[sample.lookup])],
)
def test_what_a_call_leaves_alone_is_shared(module: Any) -> None:
    assert not programs().bind(program(module), snapshot()).is_stateful


@pytest.mark.parametrize(
    ("spec", "does"),
    [
        ({"module": "Predict", "signature": "question -> answer"}, False),
        ({"module": "Predict", "signature": "question -> answer", "executes_code": True}, True),
        ({"module": "ProgramOfThought", "signature": "question -> answer"}, True),
        ({"module": "RLM", "signature": "question -> answer"}, True),
        ({"module": "tests.unit.programs.sample:Simulates"}, True),
        (
            {
                "module": "BestOfN",
                "functions": {"reward_fn": "tests.unit.programs.sample:always"},
                "arguments": {"N": 2, "threshold": 1.0},
                "modules": {"module": {"module": "ProgramOfThought", "signature": "question -> answer"}},
            },
            True,
        ),
    ],
)
def test_it_is_known_which_programs_execute_code(spec: dict[str, Any], does: bool) -> None:
    parsed = Program("p", 1, repr(spec), ProgramSpec.parse(spec, program="p"))
    assert programs().bind(parsed, snapshot()).executes_code is does
