"""How fast are the console's pages on a large fleet, and what do the live ones cost?

A gateway in a process of its own serves 10,000 sessions, a day in which a million predictions ended, and of whatever
else is kept as much as there can be. Each kind of page is requested by somebody who has signed in and allowed changes.

    page_ms_p95        milliseconds from a request to the whole page, 95 times of 100, by page
    page_cpu_ms        milliseconds of the gateway's CPU time for one, which other work on the machine doesn't change
    live_cpu_percent   of one core, while three browsers watch the page of the fleet
    the rest           how large the fleet was
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Generator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import asdict
from pathlib import Path
from statistics import quantiles
from typing import Any

import httpx

from benchmarks._console_fleet import QUICK, ROLLED_OUT, SESSION, TRIED, Filled, FleetSize, fill
from benchmarks._parts import ROOT, bench, cpu_s
from workers.gateway.access.authentication import hash_token

_VIEWERS = 3
_TOKEN = "benchmark"


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return the figures.

    Args:
        quick: whether the fleet is small, and is looked at for a few seconds.
    """
    size, rounds, watch_s = (QUICK, 5, 5.0) if quick else (FleetSize(), 40, 30.0)
    with bench() as parts:
        filled = fill(parts, size)
        with _gateway(parts.url, parts.folder) as (process, url), _signed_in(url) as client:
            pages = {name: _measure(client, path, rounds, process.pid) for name, path in list_pages(filled).items()}
            pages["sign_in"] = _measure(httpx.Client(base_url=url, timeout=60), "/sign-in", rounds, process.pid)
            return {
                "page_ms_p95": {name: figures[0] for name, figures in pages.items()},
                "page_cpu_ms": {name: figures[1] for name, figures in pages.items()},
                "live_cpu_percent": asyncio.run(_watch(f"{url}/fleet/live", client.cookies, process.pid, watch_s)),
                **asdict(size),
            }


def list_pages(filled: Filled) -> dict[str, str]:
    """Return each kind of page with its path."""
    first, second = filled.evaluations
    return {
        "fleet": "/fleet",
        "fleet_24h": "/fleet?since=24+h",
        "sessions": "/sessions",
        "sessions_found": "/sessions?prefix=tenant-000",
        "session": f"/session?name={SESSION}",
        "publish": f"/session/publish?name={SESSION}",
        "rollback": f"/session/rollback?name={SESSION}&to=latest",
        "label": f"/session/label?name={SESSION}&at=latest",
        "rollouts": "/rollouts",
        "rollout": f"/rollout?target={ROLLED_OUT}",
        "experiments": "/experiments",
        "experiment": f"/experiment?target={TRIED}&name=tone",
        "predictions": "/predictions",
        "predictions_found": "/predictions?session=tenant-00003",
        "predictions_none": "/predictions?session=absent&outcome=failed",
        "prediction": f"/prediction?id={filled.prediction}",
        "replay": f"/prediction/replay?id={filled.prediction}&again={filled.prediction}",
        "programs": "/programs",
        "program": "/program?reference=qa",
        "program_diff": "/program/diff?name=qa&before=1&after=2",
        "evaluations": "/evaluations",
        "evaluation": f"/evaluation?id={first}",
        "comparison": f"/evaluations/compare?baseline={first}&candidate={second}",
        "job": f"/evaluations/job?id={filled.job}",
        "costs": "/costs",
        "costs_by_session": "/costs?by=session",
        "costs_table": "/costs/table?by=session",
        "dead_letters": "/dead",
        "dead_letter": f"/dead/message?id={filled.dead_letter}",
        "audit": "/audit",
        "audit_found": "/audit?session=tenant-00077",
        "not_found": "/nothing",
    }


@contextmanager
def _gateway(redis_url: str, folder: Path) -> Generator[tuple[subprocess.Popen[str], str]]:
    """Run a gateway with a token for everything, and yield its process and its URL."""
    scopes = ["publish", "predict", "read", "admin", "release", "content"]
    tokens = folder / "tokens.toml"
    tokens.write_text(f"[tokens.bench]\nsha256 = '{hash_token(_TOKEN)}'\nscopes = {scopes}\nsessions = ['*']\n")
    command = ["-m", "snakepit_bridge.cli", "gateway", "--no-grpc", "--http", "127.0.0.1:0", "--tokens", str(tokens)]
    command += ["--redis-url", redis_url]
    process = subprocess.Popen([sys.executable, *command], stdout=subprocess.PIPE, text=True, cwd=ROOT)
    try:
        assert process.stdout is not None
        yield process, f"http://{json.loads(process.stdout.readline())['http']}"
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def _signed_in(url: str) -> Generator[httpx.Client]:
    """Yield a browser whose visitor has signed in and allowed changes, so that pages have their forms."""
    with httpx.Client(base_url=url, timeout=60, follow_redirects=True) as client:
        for path, fields in (("/sign-in", {"token": _TOKEN}), ("/changes", {"allow": "yes", "next": "/"})):
            page = client.get("/sign-in").text
            csrf = re.search(r'name="csrf" (?:value|content)="([^"]+)"', page)
            assert csrf
            client.post(path, data={"csrf": csrf[1], **fields}, headers={"origin": url}).raise_for_status()
        yield client


def _measure(client: httpx.Client, path: str, rounds: int, pid: int) -> tuple[float, float]:
    """Return within how many milliseconds 95 of 100 requests had their page, and the gateway's CPU time for one."""
    times, used = list[float](), 0.0
    for number in range(rounds + 1):
        if number == 1:  # the first one loads the templates, and what the gateway remembers
            times, used = [], cpu_s(pid)
        began = time.perf_counter()
        answer = client.get(path)
        times.append(1000 * (time.perf_counter() - began))
        assert answer.status_code == (404 if path == "/nothing" else 200), (path, answer.status_code)
    return round(quantiles(times, n=20)[-1], 1), round(1000 * (cpu_s(pid) - used) / rounds, 1)


async def _watch(url: str, cookies: httpx.Cookies, pid: int, seconds: float) -> float:
    """Return how many percent of a core a process uses while browsers watch a page that moves."""
    async with httpx.AsyncClient(timeout=60, cookies=cookies) as client:
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
