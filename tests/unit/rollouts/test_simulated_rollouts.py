"""The simulation of the rollout benchmark skips no look at which something would happen, and shows what is promised."""

from __future__ import annotations

import statistics

import numpy as np
import pytest

from benchmarks._simulated_rollouts import (
    Traffic,
    _decide,
    _draw_stage,
    _play,
    log_martingales,
    simulate,
)
from snakepit_bridge.rollouts.confidence import EVEN, RARE, Prior, ValueSum, log_martingale
from snakepit_bridge.rollouts.decision import DecisionKind
from snakepit_bridge.rollouts.policy import RolloutPolicy, parse_policy


@pytest.mark.parametrize("prior", [EVEN, RARE])
def test_martingales_of_arrays_are_those_of_the_rollouts(prior: Prior) -> None:
    counts = np.array([0, 1, 10, 500, 20_000])
    totals = np.array([0, 1, 0, 37, 150])
    found = log_martingales(counts, totals, 0.02, prior).tolist()
    expected = [
        log_martingale(ValueSum(int(count), float(total)), 0.02, prior)
        for count, total in zip(counts, totals, strict=True)
    ]
    assert found == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("candidate", [0.02, 0.08])
def test_no_look_at_which_something_happens_is_skipped(candidate: float) -> None:
    policy = parse_policy({"stages": [{"share": 0.5, "min_s": 20, "min_predictions": 100}]})
    stage = _draw_stage(policy, 1, Traffic(0.02, candidate), 6, np.random.default_rng(1))
    for row, (_, second, decision) in enumerate(_play(policy, 1, stage, range(6))):
        looks = (_decide(policy, 1, *stage.arms(row, look), look) for look in range(second + 1))
        kinds = [look.kind for look in looks]
        assert kinds == [DecisionKind.NONE] * second + [decision.kind]


def test_a_harmless_candidate_is_promoted_and_a_harmful_one_found_in_time() -> None:
    harmless = simulate(RolloutPolicy(), Traffic(0.01, 0.01), 40, seed=1)
    assert sum(outcome.rolled_back for outcome in harmless) <= 2
    harmful = simulate(RolloutPolicy(), Traffic(0.01, 0.05), 40, seed=2)
    assert sum(outcome.rolled_back for outcome in harmful) >= 39
    assert statistics.median(outcome.predictions for outcome in harmful) <= 600
