"""How fast are the console's pages on a large fleet, and what do the live ones cost?

A gateway in a process of its own serves 10,000 sessions, and a day in which a million predictions ended.

    page_ms_p95        milliseconds from a request to the whole page, 95 times of 100, by page
    live_cpu_percent   of one core, while three browsers watch the page of the fleet
    sessions, ended    how large the fleet was
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from statistics import quantiles
from typing import Any

import httpx

from benchmarks._parts import ROOT, bench, cpu_s
from snakepit_bridge.client import Fleet
from snakepit_bridge.delivery.activity import KEPT_S, MINUTE_S, ActivityStore, EndedPredictions, ProcessReport
from snakepit_bridge.rollouts.sketch import bucket_of
from snakepit_bridge.variables import Variable

PAGES = {
    "fleet": "/fleet",
    "fleet_24h": "/fleet?since=24+h",
    "sessions": "/sessions",
    "sessions_found": "/sessions?prefix=tenant-000",
    "session": "/session?name=tenant-00077",
    "publish": "/session/publish?name=tenant-00077",
    "costs": "/costs",
    "dead_letters": "/dead",
}
_VIEWERS, _PROCESSES, _AT_ONCE = 3, 20, 200


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return the figures.

    Args:
        quick: whether the fleet is small, and is looked at for a few seconds.
    """
    sessions, ended, rounds, watch_s = (500, 10_000, 5, 5.0) if quick else (10_000, 1_000_000, 60, 30.0)
    with bench() as parts:
        asyncio.run(_fill(parts.url, sessions, ended))
        with _gateway(parts.url) as (process, address):
            return {
                "page_ms_p95": {name: _measure(f"http://{address}{path}", rounds) for name, path in PAGES.items()},
                "live_cpu_percent": asyncio.run(_watch(f"http://{address}/fleet/live", process.pid, watch_s)),
                "sessions": sessions,
                "ended": ended,
            }


async def _fill(url: str, sessions: int, ended: int) -> None:
    fleet = Fleet(url)
    for start in range(0, sessions, _AT_ONCE):
        names = [f"tenant-{number:05}" for number in range(start, min(start + _AT_ONCE, sessions))]
        changes = {f"v{number}": Variable.declare(f"v{number}", number / 10) for number in range(10)}
        await asyncio.gather(*(fleet.store.publish(name, changes) for name in names))
    activity, now = ActivityStore(fleet.connection), time.time()
    minutes = KEPT_S // MINUTE_S
    latencies = {bucket_of(float(100 + 37 * step)): 1 + ended // minutes // 20 for step in range(20)}
    for minute in range(minutes):
        at, process = now - minute * MINUTE_S, minute % _PROCESSES
        report = ProcessReport("worker@bench", process, "asyncio", 1_000, ("predictions",), 10, now, {"ok": ended})
        await activity.report(report, EndedPredictions(at, {"ok": ended // minutes, "failed": 1}, latencies))
    await fleet.connection.aclose()
    await fleet.store.aclose()


@contextmanager
def _gateway(url: str) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Run a gateway without tokens, whose pages are everybody's on this machine."""
    command = ["-m", "snakepit_bridge.cli", "gateway", "--no-grpc", "--http", "127.0.0.1:0", "--redis-url", url]
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield process, json.loads(process.stdout.readline())["http"]
    finally:
        process.terminate()
        process.wait(30)


def _measure(url: str, rounds: int) -> float:
    with httpx.Client(timeout=60) as client:
        client.get(url).raise_for_status()
        times: list[float] = []
        for _ in range(rounds):
            began = time.perf_counter()
            client.get(url).raise_for_status()
            times.append(1000 * (time.perf_counter() - began))
    return round(quantiles(times, n=20)[-1], 1)


async def _watch(url: str, pid: int, seconds: float) -> float:
    """Return how many percent of a core a process uses while browsers watch a page that moves."""
    async with httpx.AsyncClient(timeout=60) as client:
        watching = [asyncio.create_task(_follow(client, url)) for _ in range(_VIEWERS)]
        await asyncio.sleep(seconds / 3)  # the first rendering reads the whole hour
        before, began = cpu_s(pid), time.monotonic()
        await asyncio.sleep(seconds)
        used = (cpu_s(pid) - before) / (time.monotonic() - began)
        for task in watching:
            assert not task.done(), "a stream has ended"
            task.cancel()
        await asyncio.gather(*watching, return_exceptions=True)
    return round(100 * used, 2)


async def _follow(client: httpx.AsyncClient, url: str) -> None:
    async with _stream(client, url) as response:
        async for _ in response.aiter_bytes():
            pass


@asynccontextmanager
async def _stream(client: httpx.AsyncClient, url: str) -> AsyncGenerator[httpx.Response]:
    async with client.stream("GET", url, headers={"accept": "text/event-stream"}) as response:
        response.raise_for_status()
        yield response
