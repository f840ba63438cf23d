"""Experiments: what a plan may be, who takes part, and in which arm."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.exceptions import ExperimentError
from snakepit_bridge.rollouts.assignment import MILLION, bucket
from snakepit_bridge.rollouts.experiments import (
    MAX_ARMS,
    MAX_SEGMENT_BYTES,
    Experiment,
    ExperimentPlan,
    ExperimentState,
    assign_experiment,
    encode_experiments,
    find_arm,
    parse_experiments,
)

_FILE = Path(__file__).parents[2] / "vectors" / "assignment.json"
LAYERS: list[dict[str, Any]] = json.loads(_FILE.read_text(encoding="utf-8"))["layers"]
KEYS = [f"user-{number}" for number in range(4_000)]
TARGET = "program:qa@prod"


def arms(**weights: float) -> list[dict[str, Any]]:
    return [{"name": name, "weight": weight, "revision": f"of {name}"} for name, weight in weights.items()]


def plan(**changed: Any) -> dict[str, Any]:
    return {"name": "tone", "arms": arms(a=0.5, b=0.5)} | changed


def experiment(identity: str = "e-1", **changed: Any) -> Experiment:
    return Experiment.model_validate(plan(id=identity, **changed))


# ---------------------------------------------------------------- vectors


@pytest.mark.parametrize("layer", LAYERS, ids=lambda layer: layer["target"])
def test_keys_are_assigned_as_the_vectors_say(layer: dict[str, Any]) -> None:
    running = [
        experiment(
            each["id"],
            name=each["id"],
            from_share=each["from_share"] / MILLION,
            to_share=each["to_share"] / MILLION,
            arms=arms(**{arm["name"]: arm["weight"] / MILLION for arm in each["arms"]}),
        )
        for each in layer["experiments"]
    ]
    for vector in layer["keys"]:
        assert str(bucket(layer["target"], vector["key"])) == vector["bucket"]
        assignment = assign_experiment(running, vector["key"], {}, layer["target"])
        found = (assignment.rollout, assignment.arm) if assignment else (None, None)
        assert found == (vector["experiment"], vector["arm"])


def test_it_is_shown_on_a_line() -> None:
    tried = experiment(to_share=0.5, segment={"required": ["plan"]}, winner="a", state="decided")
    assert repr(tried) == (
        "Experiment(name='tone', id='e-1', state='decided', layer='0 to 0.5', arms={'a': 0.5, 'b': 0.5}, winner='a')"
    )


# ---------------------------------------------------------------- assignment


def test_arms_get_their_weights_of_the_experiments_range() -> None:
    tried = experiment(from_share=0.2, to_share=0.6, arms=arms(a=0.1, b=0.3, c=0.6))
    found = Counter(
        assignment.arm if (assignment := assign_experiment([tried], key, {}, TARGET)) else "" for key in KEYS
    )
    for arm, share in {"": 0.6, "a": 0.04, "b": 0.12, "c": 0.24}.items():
        assert abs(found[arm] / len(KEYS) - share) < 0.025


def test_a_request_is_in_one_experiment_of_a_target_at_most() -> None:
    running = [
        experiment("e-1", name="first", from_share=0, to_share=0.3),
        experiment("e-2", name="second", from_share=0.3, to_share=1),
    ]
    for key in KEYS[:500]:
        alone = [assign_experiment([each], key, {}, TARGET) for each in running]
        [expected] = [assignment for assignment in alone if assignment]
        assert assign_experiment(running, key, {}, TARGET) == expected


def test_arms_do_not_depend_on_the_layer_or_on_other_experiments() -> None:
    first, second = experiment("e-1"), experiment("e-2")
    together = Counter((first.choose(key).name, second.choose(key).name) for key in KEYS)
    assert all(abs(count / len(KEYS) - 0.25) < 0.03 for count in together.values())
    half = experiment("e-1", to_share=0.5)
    within = [assignment.arm for key in KEYS if (assignment := assign_experiment([half], key, {}, TARGET))]
    assert abs(within.count("a") / len(within) - 0.5) < 0.04


def test_a_key_keeps_its_arm_when_other_experiments_begin_and_end() -> None:
    tried = experiment("e-1", from_share=0.5, to_share=1)
    other = experiment("e-2", name="other", from_share=0, to_share=0.5)
    for key in KEYS[:300]:
        alone = assign_experiment([tried], key, {}, TARGET)
        if alone:
            assert assign_experiment([other, tried], key, {}, TARGET) == alone


def test_an_assignment_names_experiment_arm_and_target() -> None:
    running = [experiment()]
    assignment = assign_experiment(running, "user-1", {}, TARGET)
    assert assignment is not None
    found = (assignment.rollout, assignment.stage, assignment.target, assignment.experiment)
    assert found == ("e-1", 0, TARGET, running[0].name)
    assert find_arm(running, assignment).revision == f"of {assignment.arm}"


def test_without_experiments_nobody_is_assigned() -> None:
    assert assign_experiment([], "user-1", {}, TARGET) is None


def test_a_key_that_is_too_long_is_refused() -> None:
    with pytest.raises(ValueError, match="1024 bytes"):
        assign_experiment([experiment()], "x" * 2_000_000, {}, TARGET)


@pytest.mark.parametrize(
    ("segment", "attributes", "included"),
    [
        ({"properties": {"country": {"enum": ["at", "de"]}}, "required": ["country"]}, {"country": "at"}, True),
        ({"properties": {"country": {"enum": ["at", "de"]}}, "required": ["country"]}, {"country": "fr"}, False),
        ({"properties": {"country": {"enum": ["at", "de"]}}, "required": ["country"]}, {}, False),
        ({"properties": {"age": {"minimum": 18}}}, {"age": 18.0, "beta": True}, True),
        ({"properties": {"age": {"minimum": 18}}}, {"age": 17}, False),
        ({"properties": {"email": {"pattern": "@example\\.org$"}}}, {"email": "ann@example.org"}, True),
        ({"properties": {"email": {"pattern": "(a+)+$"}}}, {"email": "a" * 99_000 + "b"}, False),
        ({"properties": {"email": {"pattern": "a"}}}, {"email": "a" * 100_001}, False),
        ({"properties": {"age": {"multipleOf": 0.5}}}, {"age": float("inf")}, False),
        ({}, {}, True),
        (None, {"country": "at"}, True),
    ],
)
def test_a_segment_says_which_requests_take_part(segment: Any, attributes: dict[str, Any], included: bool) -> None:
    assignment = assign_experiment([experiment(segment=segment)], "user-1", attributes, TARGET)
    assert (assignment is not None) == included


# ---------------------------------------------------------------- plans


def test_a_plan_is_parsed_from_text_and_from_its_value() -> None:
    parsed = ExperimentPlan.parse(plan(from_share=0.1, to_share=0.333333))
    assert parsed == ExperimentPlan.parse(json.dumps(plan(from_share=0.1, to_share=0.333333)))
    assert (parsed.from_share, parsed.to_share) == (100_000, 333_333)
    assert [(arm.name, arm.weight) for arm in parsed.arms] == [("a", 500_000), ("b", 500_000)]
    assert ExperimentPlan.parse(parsed.encode()) == parsed


@pytest.mark.parametrize(
    ("changed", "where", "problem"),
    [
        ({"arms": arms(a=0.5, b=0.4)}, "arms", "must sum to 1; these sum to 0.9"),
        ({"arms": arms(a=0.5, b=0.5, c=0.000001)}, "arms", "must sum to 1"),
        ({"arms": arms(a=1, b=0)}, r"arms\[1\].weight", "greater than 0"),
        ({"arms": arms(a=1.5, b=-0.5)}, r"arms\[0\].weight", "from 0 to 1"),
        ({"arms": arms(a=0.3333333, b=0.6666667)}, r"arms\[0\].weight", "six decimals"),
        ({"arms": arms(a=1)}, "arms", "at least 2"),
        ({"arms": arms(**{f"a{n}": 0.05 for n in range(MAX_ARMS + 1)})}, "arms", f"at most {MAX_ARMS}"),
        ({"arms": arms(a=0.5) * 2}, "arms", "a name of its own"),
        ({"arms": [{"name": "a", "weight": 1}]}, r"arms\[0\].revision", "required"),
        ({"arms": arms(**{"a b": 0.5, "c": 0.5})}, r"arms\[0\].name", "match pattern"),
        ({"name": ""}, "name", "match pattern"),
        ({"name": "x" * 65}, "name", "match pattern"),
        ({"name": "tone\n"}, "name", "match pattern"),
        ({"name": 7}, "name", "valid string"),
        ({"from_share": 0.5, "to_share": 0.5}, "the whole", "begin before it ends"),
        ({"from_share": 0.6, "to_share": 0.5}, "the whole", "begin before it ends"),
        ({"to_share": 1.01}, "to_share", "from 0 to 1"),
        ({"share": 0.5}, "share", "not permitted"),
        ({"segment": {"type": "nope"}}, "segment", "type: 'nope' is not valid"),
        (
            {"segment": {"properties": {"plan": {"enum": 7}}}},
            "segment",
            "properties.plan.enum: 7 is not of type 'array'",
        ),
        ({"segment": "country"}, "segment", "dictionary"),
        ({"segment": {"properties": {"a": {"pattern": "(?!x)"}}}}, "segment", "look-around"),
        ({"segment": {"allOf": [{"$ref": "#"}]}}, "segment", "write the schema out"),
        ({"segment": {"enum": ["x" * MAX_SEGMENT_BYTES]}}, "segment", f"the maximum is {MAX_SEGMENT_BYTES}"),
    ],
)
def test_what_is_no_plan_is_refused_by_name(changed: dict[str, Any], where: str, problem: str) -> None:
    with pytest.raises(ExperimentError, match=f"refused at {where}: .*{problem}"):
        ExperimentPlan.parse(plan(**changed))


@pytest.mark.parametrize("text", ["", "{", "NaN", '{"name": NaN}', "[" * 100_000, "[]", "7", "null"])
def test_what_is_no_json_object_is_refused_by_name(text: str) -> None:
    with pytest.raises(ExperimentError, match="refused at the whole"):
        ExperimentPlan.parse(text)


def test_a_refusal_names_the_experiment() -> None:
    with pytest.raises(ExperimentError, match="Experiment 'tone' is refused"):
        ExperimentPlan.parse(plan(arms=[]))
    with pytest.raises(ExperimentError, match="isn't JSON"):
        ExperimentPlan.parse(plan(segment={"const": {1, 2}}))


# ---------------------------------------------------------------- storage


def test_experiments_are_read_as_they_were_written() -> None:
    running = (
        experiment("e-1", name="first", to_share=0.333333, segment={"properties": {"x": {"const": None}}}),
        experiment("e-2", name="second", from_share=0.333333, arms=arms(c=1e-06, d=0.999999)),
    )
    assert parse_experiments(encode_experiments(running)) == running
    assert [each.state for each in running] == [ExperimentState.RUNNING] * 2
    assert parse_experiments("") == ()
    assert encode_experiments(()) == ""


def test_an_arm_is_found_by_its_name() -> None:
    assert experiment().arm("b").revision == "of b"
    with pytest.raises(ExperimentError, match="'z' is none of its arms. Name one of them: a, b"):
        experiment().arm("z")
