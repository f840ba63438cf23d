"""Simulated rollouts: every second is looked at, and whatever happens is what ``decide`` says.

Looks at which nothing can happen are skipped: a guard can only be breached if the martingale of both arms exceeds its
bound at any pair of means that the guard allows, and that is tested for all looks at once at one such pair.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from snakepit_bridge.rollouts.arm_counts import ArmCounts
from snakepit_bridge.rollouts.confidence import RARE, Prior
from snakepit_bridge.rollouts.decision import HOLD_FACTOR, Decision, DecisionKind, decide
from snakepit_bridge.rollouts.policy import RolloutPolicy
from snakepit_bridge.rollouts.records import RolloutRecord, RolloutState

Counts = NDArray[np.int64]
Numbers = NDArray[np.float64]

_CHUNK = 250
_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class Traffic:
    """What the fleet does while a rollout runs.

    Attributes:
        baseline, candidate: the arms' error rates.
        per_s: predictions per second.
        outage: an error rate that both arms have in one minute of ten, as when a provider is down; 0 for no outage.
    """

    baseline: float
    candidate: float
    per_s: float = 20.0
    outage: float = 0.0

    def rates(self, rate: float, seconds: int) -> Numbers:
        """Return an arm's error rate in each second."""
        rates = np.full(seconds, rate)
        if self.outage:
            rates[np.arange(seconds) % 600 < 60] = self.outage
        return rates


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a simulated rollout ended.

    Attributes:
        rolled_back: or else promoted.
        predictions: how many its candidate had until then.
        looks: seconds that it took.
    """

    rolled_back: bool
    predictions: int
    looks: int


@dataclass(frozen=True, slots=True)
class _Stage:
    """The counts of one stage of many rollouts: a row for each, a column for each second."""

    trusted: Counts
    trusted_errors: Counts
    tried: Counts
    tried_errors: Counts

    def arms(self, row: int, second: int) -> tuple[ArmCounts, ArmCounts]:
        pairs = ((self.trusted, self.trusted_errors), (self.tried, self.tried_errors))
        baseline, candidate = (
            ArmCounts(predictions=int(counts[row, second]), errors={"LMUnavailableError": int(errors[row, second])})
            for counts, errors in pairs
        )
        return baseline, candidate


def simulate(policy: RolloutPolicy, traffic: Traffic, runs: int, seed: int) -> list[Outcome]:
    """Return the outcomes of rollouts.

    Args:
        policy: of one guard, of the increase of the error rate.
        traffic: see :class:`Traffic`.
        runs: how many rollouts.
        seed: of all chance.
    """
    source = np.random.default_rng(seed)
    outcomes: list[Outcome] = []
    for begin in range(0, runs, _CHUNK):
        outcomes += _simulate_chunk(policy, traffic, min(_CHUNK, runs - begin), source)
    return outcomes


def _simulate_chunk(
    policy: RolloutPolicy, traffic: Traffic, runs: int, source: np.random.Generator
) -> Iterator[Outcome]:
    predictions, looks = [0] * runs, [0] * runs
    running = list(range(runs))
    for number in range(1, len(policy.stages) + 1):
        if not running:
            return
        stage = _draw_stage(policy, number, traffic, len(running), source)
        going_on: list[int] = []
        for row, (run, second, decision) in enumerate(_play(policy, number, stage, running)):
            predictions[run] += int(stage.tried[row, second])
            looks[run] += second + 1
            if decision.kind is DecisionKind.ADVANCE:
                going_on.append(run)
            else:
                yield Outcome(decision.kind is DecisionKind.ROLL_BACK, predictions[run], looks[run])
        running = going_on


def _draw_stage(policy: RolloutPolicy, number: int, traffic: Traffic, runs: int, source: np.random.Generator) -> _Stage:
    stage = policy.stages[number - 1]
    share = stage.share / _MILLION
    seconds = math.ceil(max(stage.min_s + 1, 1.5 * HOLD_FACTOR * stage.min_predictions / (traffic.per_s * share)))

    def draw(per_s: float, rate: float) -> tuple[Counts, Counts]:
        counts = source.poisson(per_s, (runs, seconds))
        errors = source.binomial(counts, traffic.rates(rate, seconds))
        return counts.cumsum(axis=1), errors.cumsum(axis=1)

    return _Stage(*draw(traffic.per_s * (1 - share), traffic.baseline), *draw(traffic.per_s * share, traffic.candidate))


def _play(
    policy: RolloutPolicy, number: int, stage: _Stage, running: Sequence[int]
) -> Iterator[tuple[int, int, Decision]]:
    """Iterate over the runs, each with the second at which its stage ended, and the decision."""
    margin = policy.guards[0].limit[1]
    suspicious = _may_be_breached(stage, margin, policy.alpha)
    ends = _may_end(stage, policy, number, margin)
    for row, run in enumerate(running):
        last = int(ends[row].argmax())
        if not ends[row, last]:
            raise RuntimeError("A simulated stage was too short to end.")
        for second in sorted({*np.flatnonzero(suspicious[row, : last + 1]).tolist(), last}):
            decision = _decide(policy, number, *stage.arms(row, second), second)
            if decision.kind is not DecisionKind.NONE:
                yield run, second, decision
                break
        else:
            raise RuntimeError("A simulated stage should have ended, but it was held.")


def _decide(policy: RolloutPolicy, number: int, baseline: ArmCounts, candidate: ArmCounts, second: int) -> Decision:
    share = policy.stages[number - 1].share
    record = RolloutRecord("simulated", number, RolloutState.RUNNING, number, share, 0, 0, "1.1", "1.2")
    return decide(record, policy, baseline, candidate, (), second + 1.0, 0.0, second + 1.0)


def _may_end(stage: _Stage, policy: RolloutPolicy, number: int, margin: float) -> NDArray[np.bool_]:
    """Return at which looks a stage that isn't breached ends."""
    terms = policy.stages[number - 1]
    elapsed = np.arange(1, stage.tried.shape[1] + 1) >= terms.min_s
    enough = (stage.tried >= terms.min_predictions) & (stage.trusted >= terms.baseline_predictions)
    tried, trusted = (
        errors / np.maximum(counts, 1)
        for counts, errors in ((stage.tried, stage.tried_errors), (stage.trusted, stage.trusted_errors))
    )
    held = (tried - trusted - margin > 0) & (stage.tried < HOLD_FACTOR * terms.min_predictions)
    return elapsed & enough & ~held


def _may_be_breached(stage: _Stage, margin: float, alpha: float) -> NDArray[np.bool_]:
    """Return at which looks the guard may be breached: the martingale exceeds its bound at an allowed pair of means."""
    both = np.maximum(stage.trusted + stage.tried, 1)
    mean = (stage.trusted_errors + stage.tried_errors - margin * stage.tried) / both
    mean = np.clip(mean, 1e-9, 1 - margin - 1e-9)
    logs = log_martingales(stage.trusted, stage.trusted_errors, mean, RARE)
    logs += log_martingales(stage.tried, stage.tried_errors, mean + margin, RARE)
    return logs > -math.log(alpha) - 1e-6


def log_martingales(counts: Counts, totals: Counts, means: Numbers | float, prior: Prior) -> Numbers:
    """Return ``log_martingale`` of whole numbers, for arrays."""
    averaged: Numbers = np.full(counts.shape, -np.inf)
    size = 1 << int(counts.max()).bit_length()
    for weight, a, b in prior.parts:
        logs = _log_gammas(a, size)[totals] + _log_gammas(b, size)[counts - totals] - _log_gammas(a + b, size)[counts]
        constant = math.log(weight) - math.lgamma(a) - math.lgamma(b) + math.lgamma(a + b)
        averaged = np.logaddexp(averaged, logs + constant)
    successes, failures = totals.astype(np.float64), (counts - totals).astype(np.float64)
    return averaged - (successes * np.log(means) + failures * np.log1p(-np.asarray(means)))


@functools.cache
def _log_gammas(first: float, size: int) -> Numbers:
    """Return the logarithm of the gamma function at ``first``, ``first + 1`` and so on."""
    return math.lgamma(first) + np.concatenate([[0.0], np.log(first + np.arange(size)).cumsum()])
