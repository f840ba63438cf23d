"""How long is it from a change in Elixir to its revision, and what does following many sessions cost?

One refresher follows 2,000 sessions of 20 variables, of which 50 change each second: once polling at one second, once
watching. Latency is from the change in the stand-in's process to the time that the store noted with the revision; CPU
is the refresher's process alone, in percent of one core. Stand-in, store and refresher share the machine.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks._parts import ROOT, cpu_s
from snakepit_bridge.snapshots import RedisStore
from workers.dev.redis_server import EmbeddedRedis

_SESSIONS, _VARIABLES = 2_000, 20
_PER_S, _SECONDS = 50, 20
_PATIENCE_S = 120
_FOLLOWING = {
    "poll": ("--no-watch", "--poll-s", "1", "--poll-max-s", "1"),
    "watch": ("--poll-s", "1", "--poll-max-s", "10"),
}


def run() -> dict[str, Any]:
    """Return latencies, CPU and call of both ways to follow."""
    return {way: _measure(way) for way in _FOLLOWING}


def _measure(way: str) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="dspex-bench-") as name:
        folder = Path(name)
        with EmbeddedRedis.start(folder / "redis") as redis, _elixir(way) as elixir:
            address = json.loads(_line(elixir))["address"]
            with _refresher(way, address, redis.url, folder) as refresher:
                asyncio.run(_all_followed(redis.url))
                return _figures(elixir, refresher.pid, redis.url)


def _figures(elixir: subprocess.Popen[str], refresher: int, url: str) -> dict[str, float]:
    assert elixir.stdin is not None
    spent, begun = cpu_s(refresher), time.monotonic()
    elixir.stdin.write(f"change {_SECONDS} {_PER_S}\n")
    elixir.stdin.flush()
    report: dict[str, Any] = json.loads(_line(elixir))
    cpu_percent = 100 * (cpu_s(refresher) - spent) / (time.monotonic() - begun)
    late = sorted(asyncio.run(_latencies_ms(url, report["changes"])))
    percentiles = quantiles(late, n=100)
    return {
        "p50_ms": round(percentiles[49], 1),
        "p99_ms": round(percentiles[98], 1),
        "cpu_percent": round(cpu_percent, 1),
        "calls_per_s": round(report["calls"] / report["seconds"]),
    }


async def _latencies_ms(url: str, changes: list[tuple[str, int, float]]) -> list[float]:
    """Return each change's latency; one that a later change of the same variable overtook came with that revision."""
    store = RedisStore(url)
    begun_at = {(session, value): at for session, value, at in changes}
    deadline = time.monotonic() + _PATIENCE_S
    while True:
        noted = await _noted(store, {session for session, _ in begun_at})
        missing = [change for change in begun_at if change not in noted]
        if len(missing) <= len(begun_at) / 100:
            await store.aclose()
            return [(noted[change] - at) * 1000 for change, at in begun_at.items() if change in noted]
        if time.monotonic() > deadline:
            raise RuntimeError(f"{len(missing)} of {len(begun_at)} changes did not reach the store")
        await asyncio.sleep(0.2)


async def _noted(store: RedisStore, sessions: set[str]) -> dict[tuple[str, int], float]:
    noted: dict[tuple[str, int], float] = {}
    for session in sessions:
        for change in await store.history(session, 1_000):
            for variable in change.after.values():
                if variable is not None:
                    noted[session, variable.value] = change.at
    return noted


async def _all_followed(url: str) -> None:
    """Wait until every session is there and have been confirmed since."""
    store = RedisStore(url)
    names = [f"s{number}" for number in range(_SESSIONS)]
    deadline, begun = time.monotonic() + _PATIENCE_S, 0.0
    while True:
        heads = await store.heads(names)
        if len(heads) == _SESSIONS:
            begun = begun or time.time()
            if all(head.confirmed_at > begun for head in heads.values()):
                break
        if time.monotonic() > deadline:
            raise RuntimeError(f"only {len(heads)} of {_SESSIONS} sessions are followed")
        await asyncio.sleep(0.2)
    await store.aclose()


@contextmanager
def _elixir(way: str) -> Generator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks._elixir", str(_SESSIONS), str(_VARIABLES), way]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1, cwd=ROOT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextmanager
def _refresher(way: str, address: str, url: str, folder: Path) -> Generator[subprocess.Popen[bytes]]:
    names = ",".join(f"s{number}" for number in range(_SESSIONS))
    command = [sys.executable, "-m", "workers.refresher", "--bridge", address, "--redis-url", url, "--sessions", names]
    with (
        (folder / "refresher.log").open("wb") as log,
        subprocess.Popen([*command, *_FOLLOWING[way]], stdout=log, stderr=log, cwd=ROOT) as process,
    ):
        try:
            yield process
        finally:
            process.kill()


def _line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise RuntimeError("the stand-in ended; see its output on stderr")
    return line
