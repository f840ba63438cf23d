"""What do a fleet and stock Celery lose while their workers are killed and their broker comes and goes?

Each contestant gets the same tasks, and the same happens to both: workers are killed with -9, at three named points
and anywhere else; the broker, which logs its changes, is killed and comes back, stands still for longer than a lease,
and is cut off from half of the workers. A task is lost if it has no result while no message waits or is held anywhere.

Stock Celery runs with the settings that behaved best for it (late acknowledgement, a visibility timeout as long as the
fleet's lease, a look for abandoned messages each second). If it loses nothing the run proves nothing.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._chaos import Plan, play

FULL = Plan(tasks=20_000, kills=100)
QUICK = Plan(
    tasks=600, kills=12, workers=2, concurrency=4, latency_s=0.05, lease_s=2.0, restarts=1, pauses=1, cuts=1,
    away_s=3.0, limit_s=60.0,
)  # fmt: skip


def run(quick: bool = False) -> dict[str, Any]:
    """Return what became of the tasks, and beside it what became of them on stock Celery."""
    plan = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="dspex-chaos-") as name:
        fleet = play("fleet", plan, Path(name), _tell)
        _tell(f"fleet: {fleet}")
        stock = play("stock", plan, Path(name), _tell)
    return {"tasks": plan.tasks, "kills": plan.kills, **fleet, "stock": stock}


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
