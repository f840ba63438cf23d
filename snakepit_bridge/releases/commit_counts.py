"""What a prediction adds to the counts of its arms, in the script that commits its result.

So each prediction counts once, whatever becomes of its worker: the commit that is first adds it, and no other does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from snakepit_bridge.costs.usage import LMUsage
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.scripts import source
from snakepit_bridge.rollouts.records import ArmAssignment
from snakepit_bridge.rollouts.sketch import bucket_of

COUNTS = source("snakepit_bridge.releases", "counts")
"""The Lua function ``add_counts``, for the scripts that count."""

KEPT_S = 35 * 86_400
"""Seconds for which the counts of a minute are kept."""

_MINUTE_S = 60
_PICO_PER_MICRO = 10**6


def count_success(usage: LMUsage, run_ms: float, *, is_cached: bool) -> Counter[str]:
    """Return what a prediction that succeeded adds, by field.

    Args:
        usage: what its LM calls used.
        run_ms: how long it ran, in milliseconds.
        is_cached: whether an answer of it came from a cache or another prediction, so that its time and its cost tell
            nothing of its arm.
    """
    counts = _count_usage(usage)
    if not is_cached:
        counts[f"lat:{bucket_of(run_ms)}"] = 1
        if not usage.unpriced_calls:
            counts[f"usd:{bucket_of(usage.cost_pico / _PICO_PER_MICRO)}"] = 1
    return counts


def count_failure(usage: LMUsage, error: str) -> Counter[str]:
    """Return what a prediction that failed adds, by field.

    Args:
        usage: what its LM calls used.
        error: the class of its error.
    """
    counts = _count_usage(usage)
    counts[f"e:{error or 'Exception'}"] = 1
    return counts


def _count_usage(usage: LMUsage) -> Counter[str]:
    return Counter({"n": 1, "in": usage.input_tokens, "out": usage.output_tokens, "pico": usage.cost_pico})


def count_arguments(
    keys: FleetKeys, arms: Sequence[ArmAssignment], counts: Mapping[str, int], *, now_s: float, first_key: int
) -> tuple[list[str], list[Any]]:
    """Return the keys and arguments by which ``add_counts`` counts a prediction for each of its arms.

    Args:
        keys: the fleet's.
        arms: the arms that it is assigned to; there may be none.
        counts: what it adds, by field.
        now_s: the time of the commit, in Unix seconds.
        first_key: the index of the first of these keys among those of the script, from 1.
    """
    minute = int(now_s) // _MINUTE_S
    names = [keys.arm_counts(each.rollout, each.stage, each.arm, minute) for each in arms]
    added = [part for name, amount in counts.items() if amount for part in (name, amount)]
    args: list[Any] = [len(names), KEPT_S]
    for number in range(len(names)):
        args += (first_key + number, len(added) // 2, *added)
    return names, args
