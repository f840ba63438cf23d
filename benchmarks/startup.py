"""How long does a user wait before anything runs: for the CLI's help, the client's import, a worker, a prediction?

CPU time for the first two, each in a process of its own. The help is compared with ``import typer, rich``, which any
CLI of this kind costs. Elapsed time for the others, since that is what a user waits for; a worker is compared with
``import celery, dspy``, which any worker of this kind costs. Medians of alternating rounds. ``worker_pss_mb`` and
``watchdog_pss_mb`` are the memory of a worker some seconds after it is ready, and of its watchdog; pages that processes
share count in parts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import psutil

from benchmarks._parts import ROOT, bench

_HELP = ["-m", "snakepit_bridge.cli", "--help"]
_LIBRARIES = ["-c", "import typer, rich"]
_WORKER_LIBRARIES = ["-c", "import celery, dspy"]
_CLIENT = ["-c", "from snakepit_bridge.client import Fleet"]
_NOTHING = ["-c", ""]
# Until then a watchdog has loaded what it needs when a loop stalls.
_SETTLED_S = 3.0


@dataclass(frozen=True, slots=True)
class _ReadyWorker:
    """A worker that has become ready.

    Attributes:
        ready_s: seconds until it was.
        pss_mb: its memory.
        watchdog_pss_mb: its watchdog's.
    """

    ready_s: float
    pss_mb: float
    watchdog_pss_mb: float


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return the ratio of CPU times, milliseconds of CPU, seconds of elapsed time, and megabytes.

    Args:
        quick: two rounds instead of seven.
    """
    rounds = [_round() for _ in range(2 if quick else 7)]
    return {
        "help_ratio": round(median(cli / libraries for cli, libraries, _ in rounds), 2),
        "client_import_ms": round(1000 * median(client_s for _, _, client_s in rounds), 1),
        **_worker(2 if quick else 5),
        "demo_first_prediction_s": round(_demo_s(), 2),
    }


def _worker(rounds: int) -> dict[str, float]:
    measured = [(_elapsed_s(_WORKER_LIBRARIES), _start_worker()) for _ in range(rounds)]
    return {
        "worker_libraries_s": round(median(libraries_s for libraries_s, _ in measured), 2),
        "worker_ready_s": round(median(worker.ready_s for _, worker in measured), 2),
        "worker_ready_ratio": round(median(worker.ready_s / libraries_s for libraries_s, worker in measured), 2),
        "worker_pss_mb": round(median(worker.pss_mb for _, worker in measured), 1),
        "watchdog_pss_mb": round(median(worker.watchdog_pss_mb for _, worker in measured), 1),
    }


def _elapsed_s(arguments: Sequence[str]) -> float:
    started = time.monotonic()
    subprocess.run([sys.executable, *arguments], cwd=ROOT, check=True)
    return time.monotonic() - started


def _round() -> tuple[float, float, float]:
    nothing_s = _cpu_s(_NOTHING)
    return _cpu_s(_HELP), _cpu_s(_LIBRARIES), _cpu_s(_CLIENT) - nothing_s


def _cpu_s(arguments: Sequence[str]) -> float:
    """Return the CPU seconds of a Python process that does this and ends."""
    with subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL, cwd=ROOT) as process:
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"{arguments} ended with {process.returncode}")
    return used.ru_utime + used.ru_stime


def _start_worker() -> _ReadyWorker:
    with bench() as parts:
        started = time.monotonic()
        with parts.workers(1, "asyncio") as (pid,):
            ready_s = time.monotonic() - started
            worker = psutil.Process(pid)
            time.sleep(_SETTLED_S)
            return _ReadyWorker(ready_s, _pss_mb(worker), sum(map(_pss_mb, worker.children())))


def _pss_mb(process: psutil.Process) -> float:
    return process.memory_full_info().pss / 2**20


def _demo_s() -> float:
    """Return how long the demo takes that asks one question: Redis, LM, worker, program, prediction, and their ends."""
    with tempfile.TemporaryDirectory(prefix="dspex-startup-") as name:
        questions = Path(name) / "questions.jsonl"
        with (ROOT / "examples" / "questions.jsonl").open(encoding="utf-8") as lines:
            questions.write_text(next(lines), encoding="utf-8")
        command = ["-m", "snakepit_bridge.cli", "demo", "--questions", str(questions), "--out", str(Path(name) / "out")]
        started = time.monotonic()
        subprocess.run([sys.executable, *command], stdout=subprocess.DEVNULL, cwd=ROOT, check=True)
        return time.monotonic() - started
