"""What do a fleet and stock Celery lose while their workers are killed and their broker comes and goes?

Each contestant gets the same tasks, and the same happens to both: workers are killed with -9, at three named points
and anywhere else; the broker, which logs its changes, is killed and comes back, stands still for longer than a lease,
and is cut off from half of the workers. A task is lost if it has no result while no message waits or is held anywhere.

Stock Celery runs with the settings that behaved best for it (late acknowledgement, a visibility timeout as long as the
fleet's lease, a look for abandoned messages each second). If it loses nothing the run proves nothing.

A task makes three LM calls. A call that an earlier delivery of the same message had made is counted as repeated: as
finished if that delivery had gone on to the next call or had ended, and as flying if not, since it died, or was cut off
from Redis, while the call was in flight or its answer was about to be recorded.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks._chaos import Plan, StartProcess, play
from workers.dev.process import Child

FULL = Plan(tasks=20_000, kills=100)
QUICK = Plan(
    tasks=400, kills=9, workers=2, concurrency=4, latency_s=0.05, lease_s=2.0, restarts=1, pauses=1, cuts=1,
    away_s=3.0, limit_s=60.0,
)  # fmt: skip


def run(quick: bool = False, start_process: StartProcess = Child) -> dict[str, Any]:
    """Return what became of the tasks, and beside it what became of them on stock Celery.

    Args:
        quick: whether to run the short form.
        start_process: starts a worker.
    """
    plan = QUICK if quick else FULL
    with tempfile.TemporaryDirectory(prefix="dspex-chaos-") as name:
        fleet = play("fleet", plan, Path(name), _tell, start_process)
        _tell(f"fleet: {fleet}")
        stock = play("stock", plan, Path(name), _tell, start_process)
    return {"tasks": plan.tasks, "kills": plan.kills, **fleet, "stock": stock}


def _tell(line: str) -> None:
    sys.stderr.write(f"{line}\n")
