"""What does telemetry cost a worker: switched off, with metrics, and with every prediction traced?

CPU time per prediction of an asyncio worker, over that of a worker whose recording functions do nothing at all. Each of
the four is a process of its own with its own queue. Rounds go round among them, each time from another one on, and the
cheapest round of each counts: whatever else runs on the machine makes a round dearer. The LM answers at once, so that
nothing hides the cost. The collector is a server that accepts everything; it, the client, Redis and the LM count on no
side.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import dspy

from benchmarks._bare import SIGNATURE, TEMPERATURE
from benchmarks._load import closed_loop
from benchmarks._parts import Bench, bench, cpu_s, free_port, lm_server
from snakepit_bridge.client import Fleet

_ROUNDS, _COUNT, _IN_FLIGHT = 15, 600, 100
_QUICK_ROUNDS, _QUICK_COUNT = 4, 100
_BASELINE = "unrecorded"


@dataclass(frozen=True, slots=True)
class _Worker:
    fleet: Fleet
    pid: int

    def cpu_ms(self, count: int) -> float:
        """Return the CPU milliseconds of one of so many predictions."""

        async def predict(number: int) -> None:
            await self.fleet.submit("bench", {"question": f"What is {number} + 1?"}, session="bench")

        before_s = cpu_s(self.pid)
        asyncio.run(closed_loop(predict, count, _IN_FLIGHT))
        return (cpu_s(self.pid) - before_s) / count * 1000


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return the ratios of CPU time to that of a worker without telemetry, and its CPU milliseconds per prediction.

    Args:
        quick: few and short rounds, which show that it runs.
    """
    with bench(fast=True) as parts, ExitStack() as stack:
        parts.fleet.session("bench").blocking.set_variable("temperature", TEMPERATURE)
        parts.fleet.register("bench", dspy.ChainOfThought(SIGNATURE), bindings={"temperature": "temperature"})
        folder = parts.folder / "collector"
        folder.mkdir()
        collector = stack.enter_context(lm_server(folder, fast=True)).url.removesuffix("/v1")
        workers = {name: _start(stack, parts, name, env) for name, env in _environments(collector).items()}
        for worker in workers.values():
            worker.cpu_ms(_IN_FLIGHT if quick else _COUNT)
        count = _QUICK_COUNT if quick else _COUNT
        rounds = [_measure(workers, number, count) for number in range(_QUICK_ROUNDS if quick else _ROUNDS)]
    cheapest = {name: min(costs[name] for costs in rounds) for name in workers}
    baseline_ms = cheapest.pop(_BASELINE)
    ratios = {f"{name}_ratio": round(cost_ms / baseline_ms, 3) for name, cost_ms in cheapest.items()}
    return {**ratios, "unrecorded_cpu_ms": round(baseline_ms, 3)}


def _environments(collector: str) -> Mapping[str, Mapping[str, str]]:
    return {
        _BASELINE: {},
        "off": {},
        "metrics": {"OTEL_METRICS_EXPORTER": "prometheus", "OTEL_EXPORTER_PROMETHEUS_PORT": str(free_port())},
        "traces": {"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_ENDPOINT": collector},
    }


def _start(stack: ExitStack, parts: Bench, name: str, environment: Mapping[str, str]) -> _Worker:
    module = "benchmarks._unrecorded" if name == _BASELINE else "workers.worker_command"
    fleet = Fleet(parts.url, queue=name)
    running = parts.workers(1, "asyncio", _IN_FLIGHT, fleet=fleet, environment=environment, module=module)
    return _Worker(fleet, stack.enter_context(running)[0])


def _measure(workers: Mapping[str, _Worker], number: int, count: int) -> Mapping[str, float]:
    names = list(workers)
    start = number % len(names)
    costs = {name: workers[name].cpu_ms(count) for name in names[start:] + names[:start]}
    shown = ", ".join(f"{name} {costs[name]:.3f}" for name in names)
    sys.stderr.write(f"  round {number + 1}, CPU ms per prediction: {shown}\n")
    return costs
