"""A policy is parsed from JSON with good defaults, and what can't be one is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snakepit_bridge.exceptions import RolloutPolicyError
from snakepit_bridge.rollouts.guard_rules import CostGuard, ErrorRateGuard, LatencyGuard, ScoreGuard
from snakepit_bridge.rollouts.policy import MAX_POLICY_BYTES, RolloutPolicy, Stage, parse_policy

GUARDS: list[dict[str, Any]] = [
    {"metric": "error_rate", "max_increase": 0.005},
    {"metric": "error_rate", "max": 0.1},
    {"metric": "error_rate", "max_ratio": 1.5},
    {"metric": "latency", "quantile": 0.95, "max_ratio": 1.2},
    {"metric": "latency", "slower_than_s": 10, "max_share": 0.05},
    {"metric": "latency", "slower_than_s": 10, "max_increase": 0.01},
    {"metric": "cost", "cap_usd": 0.02, "max_ratio": 1.2},
    {"metric": "cost", "cap_usd": 0.02, "max_usd": 0.01},
    {"metric": "score", "name": "helpful", "max_decrease": 0.05},
    {"metric": "score", "name": "helpful", "min": 0.7},
]
POLICIES = st.fixed_dictionaries(
    {},
    optional={
        "stages": st.lists(st.integers(1, 1_000_000), min_size=1, max_size=20, unique=True).map(
            lambda shares: [{"share": share / 1_000_000, "min_predictions": share} for share in sorted(shares)]
        ),
        "guards": st.lists(st.sampled_from(GUARDS), min_size=1, unique_by=str),
        "level": st.floats(0.001, 0.5),
        "pause_after_s": st.floats(1, 1e6),
    },
)


def test_every_key_has_a_default() -> None:
    policy = parse_policy("{}")
    assert [(stage.share, stage.min_s, stage.min_predictions) for stage in policy.stages] == [
        (10_000, 300, 200),
        (100_000, 300, 200),
        (500_000, 300, 200),
    ]
    assert policy.guards == (ErrorRateGuard(metric="error_rate", max_increase=0.002),)
    assert (policy.level, policy.pause_after_s) == (0.05, 3_600)


def test_a_policy_of_every_guard() -> None:
    policy = parse_policy({"stages": [{"share": 0.25, "min_s": 1, "min_predictions": 7}], "guards": GUARDS})
    assert policy.stages == (Stage.model_validate({"share": 0.25, "min_s": 1.0, "min_predictions": 7}),)
    assert [type(guard) for guard in policy.guards] == [ErrorRateGuard] * 3 + [LatencyGuard] * 3 + [
        CostGuard,
        CostGuard,
        ScoreGuard,
        ScoreGuard,
    ]
    assert [str(guard) for guard in policy.guards[3:7]] == [
        "latency p95 max_ratio 1.2",
        "latency above 10 s max_share 0.05",
        "latency above 10 s max_increase 0.01",
        "cost up to 0.02 USD max_ratio 1.2",
    ]


@given(POLICIES)
def test_encoding_gives_the_policy_back(document: dict[str, Any]) -> None:
    policy = parse_policy(document)
    assert parse_policy(policy.encode()) == policy
    assert parse_policy(json.dumps(document)) == policy


@given(POLICIES)
def test_the_level_is_split_over_stages_and_guards(document: dict[str, Any]) -> None:
    policy = parse_policy(document)
    assert policy.alpha * len(policy.stages) * len(policy.guards) == pytest.approx(policy.level)


@pytest.mark.parametrize(
    ("share", "predictions"), [(0.01, 200), (0.5, 200), (0.8, 50), (0.99, 3), (0.999999, 1), (1.0, 0)]
)
def test_the_baseline_needs_as_many_predictions_as_its_share_lets_it_have(share: float, predictions: int) -> None:
    policy = parse_policy({"stages": [{"share": share}]})
    assert policy.stages[0].baseline_predictions == predictions


def _guards(*guards: object) -> dict[str, Any]:
    return {"guards": list(guards)}


def _stage(**keys: object) -> dict[str, Any]:
    return {"stages": [{"share": 0.1, **keys}]}


@pytest.mark.parametrize(
    ("document", "where", "text"),
    [
        ({"stages": [{"share": 0.1}, {"share": 0.1}]}, "stages[1].share", "0.1 after 0.1"),
        ({"stages": [{"share": 0.5}, {"share": 0.1}]}, "stages[1].share", "larger than that of the stage before"),
        (_stage(share=0), "stages[0].share", "above 0"),
        (_stage(share=1.1), "stages[0].share", "1.1"),
        (_stage(share=0.1234567), "stages[0].share", "six decimals"),
        (_stage(share="0.1"), "stages[0].share", "'0.1'"),
        (_stage(share=True), "stages[0].share", "True"),
        (_stage(min_s=-1), "stages[0].min_s", "-1"),
        (_stage(min_predictions=0), "stages[0].min_predictions", "0"),
        (_stage(min_predictions=1.5), "stages[0].min_predictions", "1.5"),
        (_stage(min_prediction=5), "stages[0].min_prediction", "Did you mean 'min_predictions'?"),
        ({"stages": [{}]}, "stages[0].share", "nothing"),
        ({"stages": []}, "stages", "leave the key out"),
        ({"stages": 3}, "stages", "list of objects"),
        ({"stages": [3]}, "stages[0]", "JSON object"),
        ({"stages": [{"share": part / 100} for part in range(1, 22)]}, "stages", "at most 20"),
        (_guards(), "guards", "leave the key out"),
        (_guards(*({"metric": "score", "name": f"n{n}", "min": 0.5} for n in range(21))), "guards", "at most 20"),
        (_guards({"metric": "speed", "max": 1}), "guards[0]", "cost, error_rate, latency, score"),
        (_guards({"max": 1}), "guards[0]", "cost, error_rate, latency, score"),
        (_guards(3), "guards[0]", "JSON object"),
        (_guards({"metric": "error_rate"}), "guards[0]", "there is none"),
        (_guards({"metric": "error_rate", "max": 0.1, "max_ratio": 2}), "guards[0]", "max and max_ratio"),
        (_guards({"metric": "error_rate", "max": 1}), "guards[0].max", "less than 1"),
        (_guards({"metric": "error_rate", "max_ratio": 0.5}), "guards[0].max_ratio", "0.5"),
        (_guards({"metric": "error_rate", "maxx": 0.5}), "guards[0].maxx", "Did you mean 'max'?"),
        (_guards({"metric": "latency", "quantile": 1, "max_ratio": 2}), "guards[0].quantile", "less than 1"),
        (_guards({"metric": "latency", "quantile": 0.9, "max_share": 0.1}), "guards[0]", "bounded by max_ratio"),
        (_guards({"metric": "latency", "slower_than_s": 1, "max_ratio": 2}), "guards[0]", "for a quantile"),
        (_guards({"metric": "latency", "max_ratio": 2}), "guards[0]", "exactly one of quantile, slower_than_s"),
        (_guards({"metric": "cost", "max_ratio": 2}), "guards[0].cap_usd", "nothing"),
        (_guards({"metric": "cost", "cap_usd": 1, "max_usd": 1}), "guards[0]", "make cap_usd larger"),
        (_guards({"metric": "score", "min": 0.5}), "guards[0].name", "nothing"),
        (_guards({"metric": "score", "name": "not a name", "min": 0.5}), "guards[0].name", "letters"),
        (_guards({"metric": "score", "name": "a\n", "min": 0.5}), "guards[0].name", "letters"),
        (_guards(GUARDS[0], GUARDS[0] | {"max_increase": 0.1}), "guards[1]", "guards[0]"),
        ({"level": 0}, "level", "0"),
        ({"level": 0.51}, "level", "0.5"),
        ({"level": "high"}, "level", "'high'"),
        ({"pause_after_s": 0}, "pause_after_s", "0"),
        ({"levle": 0.1}, "levle", "Did you mean 'level'?"),
        ({"level": {1, 2}}, "the whole", "JSON"),
    ],
)
def test_what_is_no_policy_is_refused_by_name(document: dict[str, Any], where: str, text: str) -> None:
    with pytest.raises(RolloutPolicyError) as refused:
        parse_policy(document)
    assert refused.value.where == where
    assert text in str(refused.value)


@pytest.mark.parametrize(
    ("text", "where", "found"),
    [
        ("", "the whole", "isn't JSON"),
        ("stages", "the whole", "isn't JSON"),
        ("[]", "the whole", "[]"),
        ("null", "the whole", "None"),
        ('{"level": NaN}', "the whole", "NaN"),
        ('{"level": 0.1, "level": 0.2}', "level", "twice"),
        ("[" * 60_000, "the whole", "nested too deeply"),
        ('{"level": "%s"}' % ("x" * MAX_POLICY_BYTES), "the whole", "a text of"),
        ("\ud800", "the whole", "isn't JSON"),
        ('{"level": 1%s}' % ("0" * 5_000), "the whole", "isn't JSON"),
    ],
)
def test_a_text_that_is_no_policy_is_refused_by_name(text: str, where: str, found: str) -> None:
    with pytest.raises(RolloutPolicyError) as refused:
        parse_policy(text)
    assert refused.value.where == where
    assert found in str(refused.value)


def test_a_policy_is_a_value() -> None:
    assert hash(parse_policy("{}")) == hash(RolloutPolicy())
    with pytest.raises(ValueError, match="frozen"):
        parse_policy("{}").level = 0.2  # pyright: ignore[reportAttributeAccessIssue]


def test_the_reference_lists_every_key() -> None:
    page = (Path(__file__).parents[3] / "docs/concepts/rollouts.md").read_text(encoding="utf-8")
    rows = "\n".join(line for line in page.splitlines() if line.startswith("|"))
    for key in RolloutPolicy.model_fields:
        assert f"| `{key}` |" in rows
    for key in Stage.model_fields:
        assert f"| `stages[].{key}` |" in rows
    for kind in (ErrorRateGuard, LatencyGuard, CostGuard, ScoreGuard):
        (metric,) = get_args(kind.model_fields["metric"].annotation)
        assert f"| `{metric}` |" in rows
        for key in kind.model_fields:
            assert f"`{key}`" in rows
