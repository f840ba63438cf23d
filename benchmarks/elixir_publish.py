"""How soon after a publish from Elixir does an LM request show it?

An Elixir process publishes a value through the gateway and requests a prediction with the publish's token as
`at_least`, 500 times, one after the other. From the moment before the publish to the arrival of the LM request that has
the value, by the machine's clock: both calls over HTTP, the message to the worker, and the prediction up to its
request.
It needs `mix`, and the package's dependencies.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from statistics import quantiles
from typing import Any

from benchmarks._parts import ROOT, Bench, LMServer
from snakepit_bridge.client import Fleet
from snakepit_bridge.testing import RecordingLM
from workers.dev.redis_server import EmbeddedRedis

_PUBLISHES, _QUICK = 500, 50
_PROGRAM = {"module": "Predict", "signature": "question -> answer"}


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return milliseconds from a publish to the LM request that shows it."""
    mix = shutil.which("mix")
    if mix is None:
        return {"skipped": "there is no mix on the PATH"}
    with tempfile.TemporaryDirectory(prefix="dspex-bench-") as name, RecordingLM() as lm:
        folder = Path(name)
        with EmbeddedRedis.start(folder / "redis") as redis:
            bench = Bench(redis.url, Fleet(redis.url), LMServer(lm.url, os.getpid()), folder)
            bench.fleet.register("published", _PROGRAM, bindings={"temperature": "warmth"})
            with bench.workers(1, "asyncio"), _gateway(redis.url) as target:
                published = _publish(mix, target, _QUICK if quick else _PUBLISHES)
        arrived = {request.body["temperature"]: request.received_at for request in lm.requests}
    spent = [(arrived[value] - began) * 1_000 for began, value in published]
    percentiles = quantiles(spent, n=100, method="inclusive")
    return {
        "publishes": len(spent),
        "p50_ms": round(percentiles[49], 1),
        "p99_ms": round(percentiles[98], 1),
    }


def _publish(mix: str, target: str, count: int) -> list[tuple[float, float]]:
    """Publish from Elixir, and return when each publish began, in Unix seconds, with its value."""
    command = [mix, "run", "bench/publish.exs", target, str(count)]
    environment = {**os.environ, "MIX_ENV": "test"}
    done = subprocess.run(command, cwd=ROOT / "elixir", env=environment, stdout=subprocess.PIPE, text=True, check=True)
    lines = [line.split() for line in done.stdout.splitlines()[-count:]]
    return [(int(began) / 1e6, float(value)) for began, value in lines]


@contextmanager
def _gateway(redis_url: str) -> Generator[str]:
    command = [sys.executable, "-c", "from snakepit_bridge.cli import main; main()", "--redis-url", redis_url]
    options = ["gateway", "--http", "127.0.0.1:0", "--no-grpc", "--drain", "1", "--rate", "10000"]
    with subprocess.Popen([*command, *options], cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield json.loads(process.stdout.readline())["http"]
        finally:
            process.terminate()
