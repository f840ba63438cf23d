"""What a running rollout costs a worker: its CPU time per prediction with one, over that without.

One worker makes predictions of two sessions that have the same variables, of which one is staged. The rounds go back
and forth between them, so that what disturbs one disturbs the other; the LM answers at once, so that nothing hides the
cost.
"""

from __future__ import annotations

import asyncio
import sys
from dataclasses import replace
from statistics import median

import dspy

from benchmarks._bare import SIGNATURE, TEMPERATURE
from benchmarks._load import closed_loop
from benchmarks._parts import bench, cpu_s
from snakepit_bridge.client import Fleet
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutState
from snakepit_bridge.snapshots import SnapshotStore

_ROUNDS, _COUNT, _IN_FLIGHT = 31, 1_000, 100
_SESSIONS = ("plain", "staged")
# Without an end, so that the rollout runs for as long as the benchmark does.
_POLICY = '{"stages": [{"share": 0.5, "min_s": 86400}]}'


def measure_hot_path(*, quick: bool = False) -> float:
    """Return the ratio; the median over the rounds.

    Args:
        quick: 2 rounds instead of 31.
    """
    with bench(fast=True) as parts:
        fleet = parts.fleet
        fleet.register("bench", dspy.ChainOfThought(SIGNATURE), bindings={"temperature": "temperature"})
        fleet.session("plain").blocking.set_variable("temperature", TEMPERATURE)
        staged = fleet.session("staged").blocking
        staged.set_variables({"temperature": TEMPERATURE / 2, POLICY_VARIABLE: _POLICY})
        staged.set_variable("temperature", TEMPERATURE)
        run_blocking(_begin_stage(fleet.store))
        with parts.workers(1, "asyncio", _IN_FLIGHT) as [pid]:
            for session in _SESSIONS:
                _cpu_ms(fleet, pid, session)
            rounds = [_measure(fleet, pid, number) for number in range(2 if quick else _ROUNDS)]
    return round(median(staged / plain for plain, staged in rounds), 3)


async def _begin_stage(store: SnapshotStore) -> None:
    head = await store.head("staged")
    assert head.rollout is not None
    after = replace(head.rollout.change(RolloutState.RUNNING, stage=1, share=500_000), since_us=round(head.now * 1e6))
    await store.step_rollout("staged", head.rollout, RolloutEvent("stage", after))


def _measure(fleet: Fleet, pid: int, number: int) -> tuple[float, float]:
    order = _SESSIONS if number % 2 else _SESSIONS[::-1]
    costs = {session: _cpu_ms(fleet, pid, session) for session in order}
    sys.stderr.write(f"  round {number + 1}, CPU ms per prediction: {costs}\n")
    return costs["plain"], costs["staged"]


def _cpu_ms(fleet: Fleet, pid: int, session: str) -> float:
    async def predict(number: int) -> None:
        await fleet.submit("bench", {"question": f"What is {number} + 1?"}, session=session)

    before_s = cpu_s(pid)
    asyncio.run(closed_loop(predict, _COUNT, _IN_FLIGHT))
    return (cpu_s(pid) - before_s) / _COUNT * 1000
