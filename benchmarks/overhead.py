"""What does a prediction cost on the fleet, beside the same prediction in a bare DSPy loop?

CPU milliseconds per prediction of the process that executes it, at an LM that answers at once: the bare loop's process
on one side, the worker's on the other. Rounds alternate in one run, and medians are reported, since machines are noisy.
The LM server, Redis and the client run in processes of their own and count on neither side.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import dspy

from benchmarks._bare import SIGNATURE, TEMPERATURE
from benchmarks._parts import MODEL, ROOT, Bench, bench, cpu_s

_ROUNDS = 9
_COUNT = 200
_IN_FLIGHT = 8


def run() -> dict[str, Any]:
    """Return CPU ms per prediction of both, and their ratio."""
    with bench() as parts, parts.workers(1, "threads", _IN_FLIGHT) as (worker,):
        fleet_round = _fleet(parts)
        command = [sys.executable, "-m", "benchmarks._bare", MODEL, parts.lm.url]
        with subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT
        ) as bare:
            bare_round = _bare(bare)
            bare_round(50)
            fleet_round(50)
            costs = [(_cost(bare.pid, bare_round), _cost(worker, fleet_round)) for _ in range(_ROUNDS)]
            bare.terminate()
    bare_ms, fleet_ms = (median(side) for side in zip(*costs, strict=True))
    return {
        "bare_dspy_cpu_ms": round(bare_ms, 3),
        "fleet_cpu_ms": round(fleet_ms, 3),
        "ratio": round(median(theirs / own for own, theirs in costs), 2),
    }


def _cost(pid: int, predict: Callable[[int], None]) -> float:
    before = cpu_s(pid)
    predict(_COUNT)
    return (cpu_s(pid) - before) / _COUNT * 1000


def _bare(process: subprocess.Popen[str]) -> Callable[[int], None]:
    def predict(count: int) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{count} {_IN_FLIGHT}\n")
        if not process.stdout.readline():
            raise RuntimeError("the bare loop ended; see its output on stderr")

    return predict


def _fleet(parts: Bench) -> Callable[[int], None]:
    fleet = parts.fleet
    fleet.session("bench").blocking.set_variable("temperature", TEMPERATURE)
    fleet.register("bench", dspy.ChainOfThought(SIGNATURE), bindings={"temperature": "temperature"})

    def predict(count: int) -> None:
        questions = ({"question": f"What is {number} + 1?"} for number in range(count))
        for _ in fleet.map("bench", questions, session="bench", in_flight=4 * _IN_FLIGHT):
            pass

    return predict
