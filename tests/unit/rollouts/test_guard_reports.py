"""Each guard finds its own kind of harm, leaves a harmless candidate alone, and reports figures in its unit."""

from __future__ import annotations

import json
import random
from collections import Counter
from typing import Any

import pytest

from snakepit_bridge.rollouts.arm_counts import ArmCounts, ScoreSum
from snakepit_bridge.rollouts.guard_reports import GuardReport, evaluate
from snakepit_bridge.rollouts.guards import GuardVerdict
from snakepit_bridge.rollouts.policy import parse_policy
from snakepit_bridge.rollouts.sketch import bucket_of

ALPHA = 0.0167


def counts(
    number: int, *, errors: float = 0.01, slower: float = 1.0, dearer: float = 1.0, score: float = 0.8
) -> ArmCounts:
    source, failures = random.Random(number), round(number * errors)
    return ArmCounts(
        predictions=number,
        errors={"LMUnavailableError": failures} if failures else {},
        latency=Counter(bucket_of(slower * source.lognormvariate(6, 0.5)) for _ in range(number - failures)),
        cost=Counter(bucket_of(dearer * source.lognormvariate(8, 0.3)) for _ in range(number - failures)),
        scores={"helpful": ScoreSum(number // 2, round(number // 2 * score * 1_000_000))},
    )


BASELINE = counts(20_000)
GUARDS: list[tuple[dict[str, Any], ArmCounts]] = [
    ({"metric": "error_rate", "max_increase": 0.005}, counts(2_000, errors=0.05)),
    ({"metric": "error_rate", "max": 0.02}, counts(2_000, errors=0.05)),
    ({"metric": "error_rate", "max_ratio": 2}, counts(2_000, errors=0.05)),
    ({"metric": "latency", "quantile": 0.95, "max_ratio": 1.2}, counts(2_000, slower=1.7)),
    ({"metric": "latency", "quantile": 0.5, "max_ratio": 1.2}, counts(2_000, slower=1.5)),
    ({"metric": "latency", "slower_than_s": 1, "max_share": 0.06}, counts(2_000, slower=1.7)),
    ({"metric": "latency", "slower_than_s": 1, "max_increase": 0.02}, counts(2_000, slower=1.7)),
    ({"metric": "cost", "cap_usd": 0.006, "max_ratio": 1.2}, counts(2_000, dearer=1.7)),
    ({"metric": "cost", "cap_usd": 0.006, "max_usd": 0.0035}, counts(2_000, dearer=1.7)),
    ({"metric": "score", "name": "helpful", "max_decrease": 0.05}, counts(2_000, score=0.6)),
    ({"metric": "score", "name": "helpful", "min": 0.75}, counts(2_000, score=0.6)),
]
IDS = [str(parse_policy({"guards": [guard]}).guards[0]) for guard, _ in GUARDS]


def report(guard: dict[str, Any], baseline: ArmCounts, candidate: ArmCounts) -> GuardReport:
    return evaluate(parse_policy({"guards": [guard]}).guards[0], baseline, candidate, ALPHA)


@pytest.mark.parametrize(("guard", "harmful"), GUARDS, ids=IDS)
def test_a_guard_finds_its_harm(guard: dict[str, Any], harmful: ArmCounts) -> None:
    found = report(guard, BASELINE, harmful)
    assert found.verdict is GuardVerdict.BREACHED
    assert found.looks_harmful
    assert found.measured_harm is not None
    assert 0 < found.harm.low < found.measured_harm < found.harm.high


@pytest.mark.parametrize(("guard", "harmful"), GUARDS, ids=IDS)
def test_a_guard_overlooks_every_other_harm(guard: dict[str, Any], harmful: ArmCounts) -> None:
    for other, candidate in GUARDS:
        if other["metric"] != guard["metric"]:
            assert report(guard, BASELINE, candidate).verdict is not GuardVerdict.BREACHED


@pytest.mark.parametrize(("guard", "harmful"), GUARDS, ids=IDS)
def test_a_candidate_like_the_baseline_is_healthy_in_the_end(guard: dict[str, Any], harmful: ArmCounts) -> None:
    found = report(guard, counts(20_001), counts(20_002))
    assert found.verdict is GuardVerdict.HEALTHY
    assert not found.looks_harmful


@pytest.mark.parametrize(("guard", "harmful"), GUARDS, ids=IDS)
def test_without_values_nothing_is_known(guard: dict[str, Any], harmful: ArmCounts) -> None:
    for arms in ((ArmCounts(), ArmCounts()), (BASELINE, ArmCounts())):
        found = report(guard, *arms)
        assert found.verdict is GuardVerdict.OPEN
        assert found.measured_harm is None
        assert found.candidate.value is None
    assert report(guard, ArmCounts(), harmful).verdict is (
        GuardVerdict.BREACHED if found.baseline is None else GuardVerdict.OPEN
    )


@pytest.mark.parametrize(("guard", "harmful"), GUARDS, ids=IDS)
def test_a_report_is_json(guard: dict[str, Any], harmful: ArmCounts) -> None:
    for candidate in (harmful, ArmCounts()):
        found = report(guard, BASELINE, candidate).as_dict()
        assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(
    ("guard", "unit", "value"),
    [
        ({"metric": "error_rate", "max": 0.5}, "share", 0.01),
        ({"metric": "latency", "quantile": 0.5, "max_ratio": 1.2}, "s", 0.403),
        ({"metric": "latency", "slower_than_s": 1, "max_share": 0.5}, "share", 0.033),
        ({"metric": "cost", "cap_usd": 1, "max_usd": 0.5}, "USD", 0.00312),
        ({"metric": "score", "name": "helpful", "min": 0.1}, "score", 0.8),
    ],
)
def test_figures_are_in_the_metrics_own_unit(guard: dict[str, Any], unit: str, value: float) -> None:
    found = report(guard, BASELINE, BASELINE)
    assert found.unit == unit
    assert found.candidate.value == pytest.approx(value, rel=0.05)
    assert found.candidate.bounds.low < value < found.candidate.bounds.high


def test_a_report_reads_like_a_sentence() -> None:
    found = str(report({"metric": "error_rate", "max_increase": 0.005}, BASELINE, counts(2_000, errors=0.05)))
    assert found.startswith("error_rate max_increase 0.005: candidate 5 % (")
    assert ", baseline 1 % (0." in found
    assert found.endswith(" of 20,000")
    assert "candidate no values" in str(report({"metric": "error_rate", "max": 0.5}, BASELINE, ArmCounts()))
