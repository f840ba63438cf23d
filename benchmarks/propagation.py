"""How long does a publish take until the last of 8 processes serves it?

Each process holds the session in a replica, as a worker does, and looks at it as tasks would. A publish counts as seen
when the replica gives its revision or a newer one. From the moment before ``publish`` is called, by the machine's one
monotonic clock; what the publisher itself waits for is part of it. Publishes come evenly at 1, 10 and 100 a second.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from statistics import quantiles
from typing import Any

from benchmarks._parts import ROOT
from snakepit_bridge.snapshots import RedisStore
from snakepit_bridge.variables import Variable
from workers.dev.redis_server import EmbeddedRedis

_PROCESSES = 8
_SESSION = "propagation"
# Publishes a second, and how many of them are measured.
_PACES = {1: 20, 10: 100, 100: 1_000}


def run() -> dict[str, Any]:
    """Return milliseconds from publish to the last process, per publishes a second."""
    with EmbeddedRedis.start() as redis:
        return {str(pace): _at(redis.url, pace, count) for pace, count in _PACES.items()}


def _at(url: str, pace: int, count: int) -> dict[str, float]:
    asyncio.run(_publish(url, 1, 1000))
    with ExitStack() as stack:
        readers = [stack.enter_context(_reader(url)) for _ in range(_PROCESSES)]
        for reader in readers:
            _hear(reader)
        published = asyncio.run(_publish(url, count, pace))
        seen = [_end(reader, max(published)) for reader in readers]
    spent = [(max(times[revision] for times in seen) - at) * 1000 for revision, at in published.items()]
    percentiles = quantiles(spent, n=100, method="inclusive")
    return {"p50_ms": round(percentiles[49], 2), "p99_ms": round(percentiles[98], 2)}


async def _publish(url: str, count: int, pace: int) -> dict[int, float]:
    """Publish evenly and return when each revision's publish began."""
    store, published = RedisStore(url), dict[int, float]()
    next_at = time.monotonic()
    for _ in range(count):
        await asyncio.sleep(max(0.0, next_at - time.monotonic()))
        next_at += 1 / pace
        began = time.clock_gettime(time.CLOCK_MONOTONIC)
        token = await store.publish(_SESSION, {"at": Variable.declare("at", began)})
        published[token.revision] = began
    await store.aclose()
    return published


@contextmanager
def _reader(url: str) -> Generator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "benchmarks._last_reader", url, _SESSION]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as reader:
        try:
            yield reader
        finally:
            reader.kill()


def _hear(reader: subprocess.Popen[str]) -> str:
    assert reader.stdout is not None
    line = reader.stdout.readline()
    if not line:
        raise RuntimeError("a reader ended; see its output on stderr")
    return line


def _end(reader: subprocess.Popen[str], revision: int) -> dict[int, float]:
    """Tell a reader the last revision, and return when it saw each."""
    assert reader.stdin is not None
    reader.stdin.write(f"{revision}\n")
    reader.stdin.flush()
    pairs = (moment.split(":") for moment in _hear(reader).split())
    return {int(number): float(at) for number, at in pairs}
