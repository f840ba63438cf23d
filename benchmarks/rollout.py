"""Does a rollout leave harmless candidates alone, and how soon does it find a harmful one?

Rollouts under the default policy are simulated, and looked at every second; some run on a real worker:

- ``false_rollback``: the share of ``aa_runs`` rollouts that are rolled back although both arms are equal;
- ``false_rollback_no_margin``: the same, with a guard that allows no increase of the error rate at all;
- ``false_rollback_outage``: the same under the default policy, while a provider is down for one minute of ten, which
  fails a third of the predictions of both arms;
- ``detect_predictions_p50``: predictions of the candidate until it is rolled back, if its error rate is 5 % and the
  baseline's 1 %; the median of rollouts, of which ``harmful_promoted`` is the share that is never rolled back;
- ``errors``: the same for other error rates;
- ``stage_p50``: the same within one stage, by its share, since a candidate may turn bad only then;
- ``power``: predictions of the candidate until other guards find other harm, with as many of the baseline;
- ``coverage``: the share of runs in which bounds at 95 % contain the truth at every look;
- ``rollback_s``: seconds from the moment at which a guard is breached until a real fleet has rolled a failing candidate
  back, the median and the most;
- ``hot_path_ratio``: a real worker's CPU time per prediction while a rollout runs, over that of a session without one.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from typing import Any

import numpy as np

from benchmarks._failing_candidates import measure_rollbacks
from benchmarks._simulated_rollouts import Numbers, Outcome, Traffic, log_martingales, simulate
from benchmarks._staged_predictions import measure_hot_path
from snakepit_bridge.rollouts.arm_counts import ArmCounts, ScoreSum
from snakepit_bridge.rollouts.confidence import EVEN, RARE, Prior
from snakepit_bridge.rollouts.guard_reports import evaluate
from snakepit_bridge.rollouts.guards import GuardVerdict
from snakepit_bridge.rollouts.policy import RolloutPolicy, parse_policy
from snakepit_bridge.rollouts.sketch import bucket_of, merge

_LEVEL = 0.05
_LOOKS = 3_000


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return the figures; in the short form of a tenth of the runs."""
    policy, runs = RolloutPolicy(), 200 if quick else 2_000
    aa = simulate(policy, Traffic(0.01, 0.01), runs, seed=1)
    strict = parse_policy({"guards": [{"metric": "error_rate", "max_increase": 0}]})
    no_margin = simulate(strict, Traffic(0.01, 0.01), runs, seed=8)
    outage = simulate(policy, Traffic(0.01, 0.01, outage=0.33), runs, seed=2)
    harmful = simulate(policy, Traffic(0.01, 0.05), runs // 2, seed=3)
    return {
        "false_rollback": _share_rolled_back(aa),
        "aa_runs": len(aa),
        "aa_looks": sum(outcome.looks for outcome in aa),
        "false_rollback_no_margin": _share_rolled_back(no_margin),
        "false_rollback_outage": _share_rolled_back(outage),
        "detect_predictions_p50": _median(harmful),
        "harmful_promoted": round(1 - _share_rolled_back(harmful), 4),
        "errors": {
            f"1 % to {rate:.0%}": _detection(simulate(policy, Traffic(0.01, rate), runs // 10, seed=4))
            for rate in (0.02, 0.03, 0.1)
        },
        "stage_p50": {
            f"{stage.share / 10_000:g} %": _stage_p50(policy, stage.share, runs // 10) for stage in policy.stages
        },
        "power": {name: _power(runs // 40, *effect) for name, effect in _EFFECTS.items()},
        "coverage": {f"{mean:g}": _coverage(mean, prior, runs) for mean, prior in _MEANS},
        "rollback_s": _summarize(measure_rollbacks(quick=quick)),
        "hot_path_ratio": measure_hot_path(quick=quick),
    }


def _share_rolled_back(outcomes: list[Outcome]) -> float:
    return round(sum(outcome.rolled_back for outcome in outcomes) / len(outcomes), 4)


def _median(outcomes: list[Outcome]) -> float | None:
    """Return the median number of predictions until a rollback; None if fewer than half were rolled back."""
    found = statistics.median_high(outcome.predictions if outcome.rolled_back else math.inf for outcome in outcomes)
    return found if math.isfinite(found) else None


def _summarize(seconds: list[float]) -> dict[str, float]:
    return {"p50": statistics.median_high(seconds), "max": max(seconds)}


def _detection(outcomes: list[Outcome]) -> dict[str, float | None]:
    return {"rolled_back": _share_rolled_back(outcomes), "p50": _median(outcomes)}


def _stage_p50(policy: RolloutPolicy, share: int, runs: int) -> float | None:
    """Return the median within one stage of that share, at the default policy's level for a stage."""
    alone = parse_policy(
        {
            "stages": [{"share": share / 1_000_000, "min_s": 0, "min_predictions": 2_000}],
            "level": policy.alpha,
        }
    )
    return _median(simulate(alone, Traffic(0.01, 0.05), runs, seed=5))


# ------------------------------------------------------------------ other guards

Draw = Callable[[np.random.Generator, int], ArmCounts]


def _slow(factor: float) -> Draw:
    def draw(source: np.random.Generator, number: int) -> ArmCounts:
        values = factor * 1_000 * source.lognormal(0.0, 0.5, number)
        return ArmCounts(latency=merge({bucket_of(value): 1} for value in values.tolist()))

    return draw


def _costly(factor: float) -> Draw:
    def draw(source: np.random.Generator, number: int) -> ArmCounts:
        values = factor * 5_000 * source.lognormal(0.0, 0.3, number)
        return ArmCounts(cost=merge({bucket_of(value): 1} for value in values.tolist()))

    return draw


def _scored(mean: float) -> Draw:
    def draw(source: np.random.Generator, number: int) -> ArmCounts:
        return ArmCounts(scores={"helpful": ScoreSum(number, int(source.binomial(number, mean)) * 1_000_000)})

    return draw


# A guard, the baseline and the candidate.
_EFFECTS: dict[str, tuple[dict[str, Any], Draw, Draw]] = {
    "latency p95 times 1.5": ({"metric": "latency", "quantile": 0.95, "max_ratio": 1.2}, _slow(1.0), _slow(1.5)),
    "latency p50 times 1.5": ({"metric": "latency", "quantile": 0.5, "max_ratio": 1.2}, _slow(1.0), _slow(1.5)),
    "cost times 1.5": ({"metric": "cost", "cap_usd": 0.01, "max_ratio": 1.2}, _costly(1.0), _costly(1.5)),
    "score 0.8 to 0.6": ({"metric": "score", "name": "helpful", "max_decrease": 0.05}, _scored(0.8), _scored(0.6)),
}


def _power(runs: int, guard: dict[str, Any], baseline: Draw, candidate: Draw) -> float | None:
    """Return the median number of predictions of the candidate until a guard is breached, up to 20,000."""
    policy = parse_policy({"guards": [guard]})
    source, found = np.random.default_rng(6), list[float]()
    for _ in range(runs):
        trusted, tried, total = ArmCounts(), ArmCounts(), 0
        while total < 20_000:
            number = max(10, total // 20)
            trusted, tried, total = (
                trusted + baseline(source, number),
                tried + candidate(source, number),
                total + number,
            )
            if evaluate(policy.guards[0], trusted, tried, policy.alpha).verdict is GuardVerdict.BREACHED:
                found.append(total)
                break
        else:
            found.append(math.inf)
    median = statistics.median_high(found)
    return median if math.isfinite(median) else None


# ------------------------------------------------------------------ coverage

_MEANS: tuple[tuple[float, Prior], ...] = ((0.01, RARE), (0.05, RARE), (0.5, RARE), (0.3, EVEN), (0.8, EVEN))


def _coverage(mean: float, prior: Prior, runs: int) -> float:
    """Return the share of runs in which the true mean is never outside, looked at after each of 3,000 values."""
    source = np.random.default_rng(7)
    counts = np.broadcast_to(np.arange(1, _LOOKS + 1), (runs, _LOOKS))
    totals = (source.random((runs, _LOOKS)) < mean).cumsum(axis=1)
    logs: Numbers = log_martingales(counts, totals, mean, prior)
    return round(float((logs.max(axis=1) < -math.log(_LEVEL)).mean()), 4)
