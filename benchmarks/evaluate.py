"""How long does an evaluation take, beside DSPy's own on threads?

500 examples of a chain of thought at an LM that takes 2 s, in one run: ``dspy.Evaluate`` on 8 threads, which is its
default, and on 100, each in a process of its own; and ``fleet.evaluate`` with one asyncio worker, whose metric runs on
the worker. All are warmed up with a few examples first. Redis, the client and the LM server share the machine.

Then MIPROv2, which proposes three instructions and tries them on 200 examples: DSPy's own on its eight threads, and on
the fleet. Its proposals are calls one after the other in both, to an LM as slow.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from typing import Any

import dspy

from benchmarks._dspy_mipro import COMPILE_OPTIONS, OPTIONS
from benchmarks._parts import MODEL, ROOT, Bench, bench
from benchmarks.strangers.evaluated import SIGNATURE, build_examples, has_answer

_COUNT, _LATENCY_S = 500, 2.0
_QUICK_COUNT, _QUICK_LATENCY_S = 60, 0.5
_IN_FLIGHT = 2_000
_THREADS = (8, 100)
_VALIDATED, _QUICK_VALIDATED = 200, 8


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return the seconds of each."""
    count, latency_s = (_QUICK_COUNT, _QUICK_LATENCY_S) if quick else (_COUNT, _LATENCY_S)
    with bench(latency_s=latency_s, fast=True) as parts:
        local = {f"dspy_evaluate_{threads}_threads_s": _evaluate_locally(parts, count, threads) for threads in _THREADS}
        evaluated = {**local, "fleet_s": _evaluate_on_fleet(parts, count)}
    with bench(latency_s=latency_s) as parts:  # whose LM answers what an optimizer asks, too
        validated = _QUICK_VALIDATED if quick else _VALIDATED
        return {
            **evaluated,
            "mipro_local_s": _run_contestant("benchmarks._dspy_mipro", MODEL, parts.lm.url, str(validated)),
            "mipro_fleet_s": _optimize_on_fleet(parts, validated),
        }


def _evaluate_locally(parts: Bench, count: int, threads: int) -> float:
    return _run_contestant("benchmarks._dspy_evaluate", MODEL, parts.lm.url, str(count), str(threads))


def _run_contestant(*module: str) -> float:
    """Return the seconds that a contestant prints."""
    finished = subprocess.run([sys.executable, "-m", *module], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return round(float(finished.stdout.splitlines()[-1]), 2)


def _evaluate_on_fleet(parts: Bench, count: int) -> float:
    allowed = {"DSPEX_ALLOWED_PACKAGES": "benchmarks"}
    with parts.workers(1, "asyncio", _IN_FLIGHT, environment=allowed):
        fleet, metric = parts.fleet, "benchmarks.strangers.evaluated:has_answer"
        fleet.register("evaluated", dspy.ChainOfThought(SIGNATURE))
        fleet.evaluate("evaluated", build_examples(2), metric, repeat=1)
        started = time.perf_counter()
        found = fleet.evaluate("evaluated", build_examples(count), metric)
        duration_s = time.perf_counter() - started
    if found.errors:
        raise RuntimeError(f"{len(found.errors)} examples failed: {found.errors[0].problem}")
    return round(duration_s, 2)


def _optimize_on_fleet(parts: Bench, count: int) -> float:
    fleet, examples = parts.fleet, build_examples(10 + count)
    lm = dspy.LM(MODEL, api_base=parts.lm.url, api_key="none-needed", cache=False, num_retries=0)
    fleet.register("optimized", dspy.ChainOfThought(SIGNATURE))
    with (
        parts.workers(1, "asyncio", _IN_FLIGHT),
        dspy.context(lm=lm),
        contextlib.redirect_stdout(sys.stderr),
    ):
        fleet.submit("optimized", {"question": "Is it warm?"}).get()
        started = time.perf_counter()
        fleet.optimize(
            "optimized",
            examples[:10],
            has_answer,
            optimizer="MIPROv2",
            options=OPTIONS,
            compile_options=COMPILE_OPTIONS,
            valset=examples[10:],
            in_flight=count,
        )
        return round(time.perf_counter() - started, 2)
