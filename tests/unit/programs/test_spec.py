"""A program spec as JSON: what it takes, what it refuses and at which part, and how its content names it."""

from __future__ import annotations

import json
import sys
from typing import Any

import pytest

from snakepit_bridge.exceptions import ProgramSpecError
from snakepit_bridge.programs.spec import MAX_SPEC_BYTES, CacheSpec, ModuleVariable, ProgramSpec, check_name, digest
from tests.harness.preloaded import run_preloaded
from tests.harness.waiting import PATIENCE_S

QA: dict[str, Any] = {"module": "Predict", "signature": "question -> answer"}
PREDICTOR = {"traces": [], "train": [], "demos": [], "signature": {"instructions": "x", "fields": []}, "lm": None}


def parse(**changed: Any) -> ProgramSpec:
    return ProgramSpec.parse({**QA, **changed}, program="qa")


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"module": {"variable": "strategy", "allowed": ["Predict", "ReAct"]}},
        {
            "module": "mypackage.modules:Summarize",
            "signature": None,
            "arguments": {"tone": "dry", "n": [1, {"a": None}]},
        },
        {"tools": ["mypackage.tools:lookup"]},
        {"bindings": {"temperature": "llm_temperature"}, "config": {"self": {"top_p": 0.5}}, "lm": "fast"},
        {"state": {"self": PREDICTOR}},
        {"signature": "a: list[str], b -> c: Literal['x', 'ü'], d: float"},
    ],
)
def test_a_spec_survives_json(changed: dict[str, Any]) -> None:
    spec = parse(**changed)

    assert ProgramSpec.parse(spec.encode(), program="qa") == spec
    assert ProgramSpec.parse(json.loads(spec.encode()), program="qa") == spec
    assert ProgramSpec.parse(spec.model_dump(), program="qa") == spec


def test_the_order_in_which_things_are_said_does_not_change_the_digest() -> None:
    first = parse(bindings={"a": "x", "b": "y"}, config={"self": {"top_p": 0.5, "n": 1}})
    other = parse(config={"self": {"n": 1, "top_p": 0.5}}, bindings={"b": "y", "a": "x"})

    assert digest(first.encode()) == digest(other.encode())


def test_the_digest_is_the_same_in_another_process() -> None:
    script = (
        "import sys; from snakepit_bridge.programs.spec import ProgramSpec, digest;"
        "print(digest(ProgramSpec.parse(sys.stdin.buffer.read(), program='qa').encode()))"
    )
    encoded = parse(bindings={"temperature": "t"}).encode()
    other_process = run_preloaded([sys.executable, "-c", script], input=encoded.decode(), timeout=PATIENCE_S)

    assert other_process.stdout.strip() == digest(encoded)


@pytest.mark.parametrize(
    "changed", [{"lm": "fast"}, {"bindings": {"temperature": "t"}}, {"signature": "question -> answer: str"}]
)
def test_another_content_has_another_digest(changed: dict[str, Any]) -> None:
    if changed == {"signature": "question -> answer: str"}:
        assert digest(parse(signature="question: str -> answer").encode()) != digest(parse().encode())
        return
    assert digest(parse(**changed).encode()) != digest(parse().encode())


def test_a_spec_is_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        setattr(parse(), "lm", "other")  # noqa: B010


def test_the_module_types_that_it_may_run_as() -> None:
    assert parse().module_names == ("Predict",)
    assert parse(module=ModuleVariable(variable="s", allowed=("ReAct", "Predict"))).module_names == ("ReAct", "Predict")


@pytest.mark.parametrize(
    ("changed", "where"),
    [
        ({"module": 3}, "module"),
        ({"module": {"variable": "s", "allowed": []}}, "module.ModuleVariable.allowed"),
        ({"module": {"allowed": ["Predict"]}}, "module.ModuleVariable.variable"),
        ({"modul": "Predict"}, "modul"),
        ({"format": 2}, "format"),
        ({"signature": "question"}, "signature"),
        ({"signature": {"fields": []}}, "signature.fields"),
        ({"signature": {"fields": [{"name": "a"}]}}, "signature.fields.0.direction"),
        ({"signature": {"fields": [{"name": "a", "direction": "sideways"}]}}, "signature.fields.0.direction"),
        ({"signature": {"fields": [{"name": "a", "direction": "input", "code": "x"}]}}, "signature.fields.0.code"),
        ({"tools": "lookup"}, "tools"),
        ({"bindings": ["temperature"]}, "bindings"),
        ({"bindings": {"temperature": 3}}, "bindings.temperature"),
        ({"config": {"self": 3}}, "config.self"),
        ({"config": {"self": {"api_base": "http://elsewhere"}}}, "config.self.api_base"),
        ({"config": {"self": {"api_key": "x"}}}, "config.self.api_key"),
        ({"config": {"self": {"headers": {}}}}, "config.self.headers"),
        ({"config": {"self": {"extra_headers": {}}}}, "config.self.extra_headers"),
        ({"config": {"self": {"base_url": "http://elsewhere"}}}, "config.self.base_url"),
        ({"config": {"self": {"model": "openai/other"}}}, "config.self.model"),
        ({"state": {"self": 3}}, "state.self"),
        ({"state": {"self": {**PREDICTOR, "forward": "x"}}}, "state.self"),
        ({"state": {"self": {**PREDICTOR, "__class__": "x"}}}, "state.self"),
        ({"state": {"self": {**PREDICTOR, "lm": {"model": "x", "api_base": "http://elsewhere"}}}}, "state.self"),
        ({"state": {"self": PREDICTOR}, "module": {"variable": "s"}}, "state"),
        ({"arguments": {"x": {1, 2}}}, "arguments.x"),
        ({"arguments": {"reward_fn": "os:system"}}, "arguments.reward_fn"),
        ({"modules": {"module": {**QA, "bindings": {"temperature": "t"}}}}, "modules.module"),
        ({"modules": {"module": {**QA, "module": {"variable": "s"}}}}, "modules.module"),
        ({"modules": {"programs": [QA, {**QA, "lm": "fast"}]}}, "modules.programs.1"),
        ({"modules": {"module": {**QA, "config": {"self": {"api_key": "x"}}}}}, "modules.module.config.self.api_key"),
        ({"lm": ["fast"]}, "lm"),
    ],
)
def test_a_part_that_is_wrong_is_named(changed: dict[str, Any], where: str) -> None:
    with pytest.raises(ProgramSpecError) as refused:
        parse(**changed)

    assert refused.value.program == "qa"
    assert refused.value.where.startswith(where)
    assert refused.value.problem


@pytest.mark.parametrize("text", [b"", b"{", b"nonsense", b"[]", b"3", b'"text"', b"null", b"\xff\xfe", b"{}", []])
def test_what_is_no_spec_at_all_is_refused(text: Any) -> None:
    with pytest.raises(ProgramSpecError, match="program 'qa'"):
        ProgramSpec.parse(text, program="qa")


def test_a_spec_that_is_too_large_is_refused_unread() -> None:
    with pytest.raises(ProgramSpecError, match="are more than"):
        ProgramSpec.parse(b" " * (MAX_SPEC_BYTES + 1), program="qa")


@pytest.mark.parametrize("name", ["qa", "a", "QA.v2_final-1", "0" * 100])
def test_a_name_that_can_be_one_is_taken(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", "-qa", ".qa", "q a", "qa@prod", "qa:3", "{qa}", "qä", "q\n", "0" * 101, "a*", "../a"]
)
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(ProgramSpecError, match="letters, digits"):
        check_name(name)


def test_a_program_without_a_cache_keeps_the_content_address_that_it_had() -> None:
    plain = ProgramSpec.parse({"module": "Predict", "signature": "question -> answer"}, program="p")
    cached = plain.model_copy(update={"cache": CacheSpec()})

    assert b"cache" not in plain.encode()
    assert ProgramSpec.parse(cached.encode(), program="p") == cached
    assert digest(plain.encode()) != digest(cached.encode())


@pytest.mark.parametrize("cache", [{"ttl_s": 0}, {"ttl": 5}, {"share": "everybody"}, 5])
def test_a_cache_that_cannot_be_is_refused(cache: Any) -> None:
    with pytest.raises(ProgramSpecError, match="cache"):
        ProgramSpec.parse({"module": "Predict", "signature": "question -> answer", "cache": cache}, program="p")
