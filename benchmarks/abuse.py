"""What becomes of predictions, workers and neighbours while strangers do everything that they can at once?

Thousands of tasks of every kind on each pool: honest ones, sessions and programs that nobody published, inputs that fit
nothing, any JSON, every answer that a provider can give, modules that block, keep state, start threads, configure
DSPy, raise what ends processes and return nonsense, batches, cancellations, keys used twice, streams, limits and
chains. Redis meanwhile is flushed of its scripts, cut off, paused, full, read-only, killed and restarted. Every
accepted task must have one end, no process may die, no secret may leave, no key may stay; ``p99_neighbour_ms`` is how
long an honest prediction takes beside it all, where no trouble of Redis falls into it.
"""

from __future__ import annotations

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks._abuse import Plan, play
from workers.pools import Pool

_SUMS = ("tasks", "worker_deaths", "unended", "double_ends", "leaked_secrets", "leaked_keys")
FULL = (
    Plan(Pool.asyncio, 20_000, concurrency=200),
    Plan(Pool.threads, 20_000, concurrency=32),
    Plan(Pool.prefork, 20_000, concurrency=2),
)


def run(quick: bool = False) -> dict[str, Any]:
    """Return what became of everything, over all pools and of each."""
    plans = [replace(plan, tasks=300, trouble_every_s=1.0) for plan in FULL] if quick else FULL
    pools = {plan.pool.value: _play(plan) for plan in plans}
    sums = {name: sum(found[name] for found in pools.values()) for name in _SUMS}
    return {**sums, "p99_neighbour_ms": max(found["p99_neighbour_ms"] for found in pools.values()), "pools": pools}


def _play(plan: Plan) -> dict[str, Any]:
    with tempfile.TemporaryDirectory(prefix="dspex-abuse-") as name:
        found = play(plan, Path(name), _tell)
    _tell(f"{plan.pool}: {found}")
    return found


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
