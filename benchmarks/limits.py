"""Does the whole fleet keep to a provider's quota, use it up, and share it fairly between sessions?

Worker processes call an LM server that counts a sliding window by a log of every request, and answers 429 beyond its
quota. Ten sessions have more to ask than the quota allows; one of them floods before the others begin. Measured once
the provider's window is full, while every session has something waiting:

- ``rate_429``: share of all requests, from the first to the last, that the provider refused;
- ``utilisation``: accepted requests, as a share of what the quota allows;
- ``jain``: Jain's index over the requests of each session, 1 where all had the same;
- ``change_s``: seconds from a publish of another limit to the last request under the old one, and to the first under
  the new one, whichever took longer.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
import httpx
from redis import Redis

from benchmarks._parts import MODEL, ROOT
from snakepit_bridge.client import Fleet
from workers.dev.demo.parts import worker_processes
from workers.dev.redis_server import EmbeddedRedis

_LIMIT = "dspex.limits.bench.requests_per_min"
_LATENCY_S = 0.2
_PATIENCE_S = 120.0


@dataclass(frozen=True, slots=True)
class Shape:
    """How much is asked of whom.

    Attributes:
        workers: processes, each with so many predictions at a time.
        concurrency: of each.
        sessions: how many; the first one floods.
        quota: requests that the provider accepts in any window.
        window_s: that window.
        measure_s: for how long is measured.
    """

    workers: int = 8
    concurrency: int = 16
    sessions: int = 10
    quota: int = 1_500
    window_s: float = 30.0
    measure_s: float = 30.0

    @property
    def per_s(self) -> float:
        """What the quota allows on average."""
        return self.quota / self.window_s

    @property
    def each(self) -> int:
        """What one session must ask to have something waiting all the time, with some to spare."""
        return int(self.per_s * (self.window_s + self.measure_s) / self.sessions * 1.3) + 20


def run(shape: Shape = Shape()) -> dict[str, Any]:
    """Return the four figures."""
    with tempfile.TemporaryDirectory(prefix="dspex-") as name, EmbeddedRedis.start(Path(name) / "redis") as redis:
        fleet = Fleet(redis.url)
        with _quota_lm(shape) as url, _workers(fleet, shape, url, Path(name)):
            _flood_and_wait(fleet, shape)
            _allow(fleet, shape)
            _await(lambda: _log(url), "the first request")
            time.sleep(shape.window_s)
            began = time.time()
            time.sleep(shape.measure_s)
            log = _log(url)
            return _figures(log, began, time.time(), shape) | {"change_s": _change_s(fleet, shape, url)}


def _figures(log: Sequence[Any], began: float, ended: float, shape: Shape) -> dict[str, float]:
    measured = [(who, status) for at, who, status in log if began <= at < ended]
    counts = Counter(who for who, status in measured if status == 200)
    shares = [counts[f"session-{number}"] for number in range(shape.sessions)]
    return {
        "rate_429": round(sum(status == 429 for _, _, status in log) / len(log), 5),
        "utilisation": round(sum(shares) / ((ended - began) * shape.per_s), 4),
        "jain": round(sum(shares) ** 2 / (len(shares) * sum(share**2 for share in shares)), 4),
    }


def _change_s(fleet: Fleet, shape: Shape, url: str) -> float:
    """Stop everything, and lets it go on."""
    stopped = time.time()
    _publish(fleet, 0)
    time.sleep(3)
    last = max(at for at, *_ in _log(url))
    started = time.time()
    _allow(fleet, shape)
    first = _await(lambda: [at for at, *_ in _log(url) if at > started], "a request under the new limit")[0]
    return round(max(last - stopped, first - started), 3)


# ------------------------------------------------------------------ parts


@contextmanager
def _quota_lm(shape: Shape) -> Generator[str]:
    command = [sys.executable, "-m", "benchmarks._quota_lm", "--quota", str(shape.quota)]
    command += ["--window-s", str(shape.window_s), "--latency-s", str(_LATENCY_S)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) as server:
        try:
            assert server.stdout is not None
            yield f"http://127.0.0.1:{server.stdout.readline().strip()}"
        finally:
            server.kill()


@contextmanager
def _workers(fleet: Fleet, shape: Shape, url: str, folder: Path) -> Generator[None]:
    profiles = folder / "profiles.toml"
    profiles.write_text(
        f'[profiles.bench]\nmodel = "{MODEL}"\napi_base = "{url}/v1"\napi_key_env = "DSPEX_BENCH_KEY"\n'
    )
    env = {"DSPEX_REDIS_URL": fleet.url, "DSPEX_LM_PROFILES": str(profiles), "DSPEX_BENCH_KEY": "none-needed"}
    fleet.register("qa", dspy.Predict("question -> answer"))
    _publish(fleet, 0)
    with worker_processes(fleet, shape.workers, "asyncio", env, folder, concurrency=shape.concurrency):
        yield


def _publish(fleet: Fleet, requests_per_min: float) -> None:
    fleet.session("dspex.fleet").blocking.set_variables({_LIMIT: float(requests_per_min)})


def _allow(fleet: Fleet, shape: Shape) -> None:
    _publish(fleet, shape.per_s * 60)


def _flood_and_wait(fleet: Fleet, shape: Shape) -> None:
    """Have one session ask three times as much as each other, and before them."""
    for number in range(shape.sessions):
        session = f"session-{number}"
        fleet.session(session).blocking.set_variables({"place": number})
        for count in range(shape.each * (1 if number else 3)):
            fleet.submit("qa", {"question": f"{session}: {count}"}, session=session)
        if not number:
            _await(lambda: _parked(fleet) > shape.each, "the flood in its lane")
    total = shape.each * (shape.sessions + 2)
    _await(lambda: _parked(fleet) >= total, "everything in its lane")


def _parked(fleet: Fleet) -> int:
    with Redis.from_url(fleet.url) as client:
        found: Any = client.hget("dspex:{limits}:waiting", "bench")
    return int(found or 0)


def _log(url: str) -> list[Any]:
    return json.loads(httpx.get(f"{url}/log").text)


def _await(condition: Any, what: str) -> Any:
    until = time.monotonic() + _PATIENCE_S
    while time.monotonic() < until:
        if found := condition():
            return found
        time.sleep(0.1)
    raise RuntimeError(f"There was no sign of {what} within {_PATIENCE_S:g} s.")
