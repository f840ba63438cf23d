"""How many predictions does one worker process make in a second, and what does each cost?

At an LM that takes 200 ms and at one that takes 2 s, in one run: DSPy's bare ``acall`` loop, which is the limit; one
asyncio worker of the fleet with single predictions, and with batches; on the same pool a task of Celery's that only
calls DSPy, which shows Celery's share of a single prediction's cost; and plain Celery with DSPy as one would write it
first, on prefork with two processes and on a hundred threads. All contestants stand ready from the start; rounds go
round among them, and the median of each is reported. Each is given as many at a time as it can hold.

``cpu_ms`` is the CPU time per prediction of the processes that execute; ``rss_mb`` their memory at its peak; ``p99_ms``
is measured by whoever waits. Client, broker and LM server share the machine and count on no side.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Any

import dspy
import psutil

from benchmarks._bare import SIGNATURE, TEMPERATURE
from benchmarks._load import Done, closed_loop
from benchmarks._parts import MODEL, ROOT, Bench, bench, child, cpu_s
from benchmarks._plain_client import plain_client
from snakepit_bridge.client import Fleet
from workers.dev.demo.parts import await_condition

_LOOK_S = 0.05
_BATCH = 100


@dataclass(frozen=True, slots=True)
class Round:
    """The load of one round: the number of predictions, and how many of them are in flight."""

    count: int
    in_flight: int


Plan = dict[str, Round]
# A round lasts some seconds for each of them. One process of the fleet holds 2,000 at a time.
PLANS: dict[str, Plan] = {
    "0.2": {
        "bare": Round(3_000, 300),
        "asyncio": Round(3_000, 300),
        "batch": Round(3_000, 300),
        "celery_task": Round(3_000, 300),
        "peer_prefork": Round(40, 2),
        "peer_threads": Round(500, 100),
    },
    "2": {
        "bare": Round(6_000, 2_000),
        "asyncio": Round(6_000, 2_000),
        "batch": Round(6_000, 2_000),
        "celery_task": Round(6_000, 2_000),
        "peer_prefork": Round(6, 2),
        "peer_threads": Round(200, 100),
    },
}
QUICK: dict[str, Plan] = {
    "0.2": {
        "bare": Round(200, 50),
        "asyncio": Round(200, 50),
        "batch": Round(200, 50),
        "celery_task": Round(200, 50),
        "peer_prefork": Round(20, 2),  # less CPU time than this the system counts as none
        "peer_threads": Round(50, 50),
    },
}
_ROUNDS = 3


@dataclass(frozen=True, slots=True)
class Contestant:
    """One of the systems that are compared: the process that executes, and a function that runs a round."""

    pid: int
    run: Callable[[Round], tuple[float, float]]


def run(plans: dict[str, Plan] | None = None, rounds: int = _ROUNDS, *, quick: bool = False) -> dict[str, Any]:
    """Return the figures by latency and contestant."""
    chosen, rounds = (QUICK, 1) if quick else (plans or PLANS, rounds)
    return {latency: _at(float(latency), plan, rounds) for latency, plan in chosen.items()}


def _at(latency_s: float, plan: Plan, rounds: int) -> dict[str, Any]:
    with bench(latency_s=latency_s, fast=True) as parts, ExitStack() as stack:
        contestants = {name: stack.enter_context(_OPEN[name](parts, plan[name])) for name in plan}
        for name, contestant in contestants.items():
            contestant.run(Round(min(plan[name].count, 2 * plan[name].in_flight), plan[name].in_flight))
        measured: dict[str, list[dict[str, float]]] = {name: [] for name in plan}
        for number in range(rounds):
            for name, contestant in contestants.items():
                figures = _measure(contestant, plan[name])
                measured[name].append(figures)
                sys.stderr.write(f"  {latency_s:g} s, round {number + 1}, {name}: {figures}\n")
        return {name: _medians(each) for name, each in measured.items()}


def _medians(measured: Sequence[dict[str, float]]) -> dict[str, float]:
    return {figure: round(median(figures[figure] for figures in measured), 3) for figure in measured[0]}


def _measure(contestant: Contestant, load: Round) -> dict[str, float]:
    before = cpu_s(contestant.pid)
    with _peak_mb(contestant.pid) as peak:
        per_s, p99_ms = contestant.run(load)
    cpu_ms = (cpu_s(contestant.pid) - before) / load.count * 1000
    return {"per_s": round(per_s, 1), "cpu_ms": round(cpu_ms, 3), "rss_mb": round(max(peak)), "p99_ms": round(p99_ms)}


@contextmanager
def _peak_mb(pid: int) -> Generator[list[float]]:
    """Yield a list that grows by the memory of a process and its children, in MB, every moment."""
    seen, over = list[float](), threading.Event()

    def look() -> None:
        process = psutil.Process(pid)
        while True:
            family = [process, *process.children(recursive=True)]
            seen.append(sum(member.memory_info().rss for member in family) / 2**20)
            if over.wait(_LOOK_S):
                return

    looking = threading.Thread(target=look)
    looking.start()
    try:
        yield seen
    finally:
        over.set()
        looking.join()


# ---------------------------------------------------------------- the contestants


@contextmanager
def _bare(parts: Bench, _: Round) -> Generator[Contestant]:
    command = [sys.executable, "-m", "benchmarks._bare", MODEL, parts.lm.url]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        orders, answers = process.stdin, process.stdout

        def ask(load: Round) -> tuple[float, float]:
            orders.write(f"{load.count} {load.in_flight}\n")
            answer = json.loads(answers.readline())
            return answer["per_s"], answer["p99_ms"]

        yield Contestant(process.pid, ask)
        process.terminate()


@contextmanager
def _single(parts: Bench, load: Round) -> Generator[Contestant]:
    with _fleet(parts, "single", load) as (pid, fleet):

        async def predict(number: int) -> None:
            await fleet.submit("bench", _question(number), session="bench")

        yield Contestant(pid, lambda load: _driven(predict, load))


@contextmanager
def _batch(parts: Bench, load: Round) -> Generator[Contestant]:
    with _fleet(parts, "batch", load) as (pid, fleet):

        async def predict(number: int) -> None:
            inputs = [_question(number * _BATCH + each) for each in range(_BATCH)]
            handles = fleet.submit_batch("bench", inputs, session="bench")
            await asyncio.gather(*handles)

        def ask(load: Round) -> tuple[float, float]:
            size = min(_BATCH, load.in_flight)
            per_s, p99_ms = _driven(predict, Round(-(-load.count // size), max(1, load.in_flight // size)))
            return per_s * size, p99_ms

        yield Contestant(pid, ask)


@contextmanager
def _fleet(parts: Bench, queue: str, load: Round) -> Generator[tuple[int, Fleet]]:
    """Start a worker of its own for each, so that none inherits another's memory."""
    fleet = Fleet(parts.url, queue=queue, wait_s=120)
    fleet.session("bench").blocking.set_variable("temperature", TEMPERATURE)
    fleet.register("bench", dspy.ChainOfThought(SIGNATURE), bindings={"temperature": "temperature"})
    with parts.workers(1, "asyncio", max(load.in_flight, 1), fleet=fleet) as (pid,):
        yield pid, fleet


@contextmanager
def _celery_task(parts: Bench, load: Round) -> Generator[Contestant]:
    fleet = Fleet(parts.url, queue="celery-task", wait_s=120)
    environment = {"BENCH_MODEL": MODEL, "BENCH_LM": parts.lm.url}
    with parts.workers(
        1, "asyncio", max(load.in_flight, 1), fleet=fleet, environment=environment, module="benchmarks._celery_task"
    ) as (pid,):
        yield Contestant(pid, lambda load: asyncio.run(_plainly(parts.url, fleet.queue, load)))


def _question(number: int) -> dict[str, str]:
    return {"question": f"What is {number} + 1?"}


@contextmanager
def _plain(parts: Bench, pool: str, concurrency: int) -> Generator[Contestant]:
    url = f"{parts.url.rpartition('/')[0]}/1"
    log = parts.folder / f"plain-{pool}.log"
    os.environ.update(PLAIN_URL=url, PLAIN_MODEL=MODEL, PLAIN_LM=parts.lm.url)
    command = ["-m", "celery", "-A", "benchmarks.peers.plain", "worker", "--pool", pool, "-c", str(concurrency)]
    process = child([*command, "-Q", pool, "-l", "INFO"], log)
    try:
        await_condition(lambda: "ready." in log.read_text(), f"the plain worker on {pool}", [log])

        def ask(load: Round) -> tuple[float, float]:
            return asyncio.run(_plainly(url, pool, load))

        yield Contestant(process.pid, ask)
    finally:
        process.end()


async def _plainly(url: str, queue: str, load: Round) -> tuple[float, float]:
    async with plain_client(url, queue) as client:
        done = await closed_loop(client.predict, load.count, load.in_flight)
    return done.per_s, done.p99_ms


def _driven(predict: Callable[[int], Awaitable[object]], load: Round) -> tuple[float, float]:
    done: Done = asyncio.run(closed_loop(predict, load.count, load.in_flight))
    return done.per_s, done.p99_ms


_OPEN: dict[str, Callable[[Bench, Round], Any]] = {
    "bare": _bare,
    "asyncio": _single,
    "batch": _batch,
    "celery_task": _celery_task,
    "peer_prefork": lambda parts, _: _plain(parts, "prefork", 2),
    "peer_threads": lambda parts, _: _plain(parts, "threads", 100),
}
