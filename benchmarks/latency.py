"""How long does a prediction wait between its submit and its start, at 100, 500 and 1,000 a second?

Predictions are submitted one by one at a steady rate, whether or not earlier ones have ended, to two asyncio workers
with an LM that takes 200 ms. A prediction starts when its program does: it has been claimed, its snapshot read and its
program bound by then. Its provenance says how long that took since its submit. Beside them, a process of its own pings
Redis all the while: on a machine whose bare round trips take long, so does everything that needs some.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from typing import Any

import dspy

from benchmarks._bare import SIGNATURE, TEMPERATURE
from benchmarks._parts import ROOT, Bench, bench
from snakepit_bridge.client import Fleet

_RATES = (100, 500, 1_000)
_LATENCY_S = 0.2
_WORKERS = 2
_CONCURRENCY = 1_000


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return the milliseconds from submit to start by submits per second.

    Args:
        quick: the lowest rate alone, for two seconds instead of ten.
    """
    rates, seconds = (_RATES[:1], 2) if quick else (_RATES, 10)
    with bench(latency_s=_LATENCY_S, fast=True) as parts:
        fleet = parts.fleet
        fleet.session("bench").blocking.set_variable("temperature", TEMPERATURE)
        fleet.register("bench", dspy.ChainOfThought(SIGNATURE), bindings={"temperature": "temperature"})
        with parts.workers(_WORKERS, "asyncio", _CONCURRENCY):
            asyncio.run(_submit_steadily(fleet, rates[0], seconds))  # the first predictions load the program
            return {str(rate): _measure(parts, rate, seconds) for rate in rates}


def _measure(parts: Bench, rate: int, seconds: int) -> dict[str, float]:
    with _round_trips(parts.url) as round_trips_ms:
        starts_ms = asyncio.run(_submit_steadily(parts.fleet, rate, seconds))
    figures = {
        "start_p50_ms": _percentile(starts_ms, 0.5),
        "start_p99_ms": _percentile(starts_ms, 0.99),
        "redis_rtt_p99_ms": _percentile(round_trips_ms, 0.99),
    }
    sys.stderr.write(f"  {rate}/s: {figures}\n")
    return figures


async def _submit_steadily(fleet: Fleet, rate: int, seconds: int) -> Sequence[float]:
    """Submit predictions at a rate and return the milliseconds from the submit to the start of each."""
    began, waits = time.monotonic(), list[asyncio.Task[float]]()
    for number in range(rate * seconds):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        waits.append(asyncio.create_task(_predict(fleet, number)))
    return await asyncio.gather(*waits)


async def _predict(fleet: Fleet, number: int) -> float:
    result = await fleet.submit("bench", {"question": f"What is {number} + 1?"}, session="bench")
    return result.provenance.timings.queued_ms


@contextmanager
def _round_trips(url: str) -> Generator[list[float]]:
    """Yield a list that has the milliseconds of bare round trips to Redis once the block ends."""
    spent_ms: list[float] = []
    command = [sys.executable, "-m", "benchmarks._round_trips", url]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        yield spent_ms
        measured, _ = process.communicate()
        spent_ms += json.loads(measured)


def _percentile(values: Sequence[float], share: float) -> float:
    return round(sorted(values)[max(0, round(len(values) * share) - 1)], 2)
