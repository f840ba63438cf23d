"""Parts that benchmarks share: a fleet of one worker on embedded parts, and the CPU time of a process."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil

from snakepit_bridge.client import Fleet
from workers.dev.demo.parts import worker_processes
from workers.dev.process import Child
from workers.dev.redis_server import EmbeddedRedis

ROOT = Path(__file__).parent.parent

# A model that DSPy has metadata for: for others it searches its whole table at every call, in every contestant.
MODEL = "openai/gpt-4o-mini"


@dataclass(frozen=True, slots=True)
class LMServer:
    """The stand-in LM in a process of its own; ``url`` is its api_base."""

    url: str
    pid: int


@contextmanager
def lm_server(folder: Path, *, latency_s: float = 0.0, fast: bool = False) -> Generator[LMServer]:
    """Run the stand-in LM, or one that only answers fast, in a process of its own whose CPU time counts for nobody."""
    command = [sys.executable, "-m", "workers.dev.stand_in_lm", "--latency-s", str(latency_s), "--keep", "1"]
    if fast:
        command = [sys.executable, "-m", "benchmarks._fast_lm", str(latency_s)]
    with (folder / "lm.err").open("wb") as errors:
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT)
    try:
        assert server.stdout is not None
        yield LMServer(json.loads(server.stdout.readline())["url"], server.pid)
    finally:
        server.terminate()
        server.wait(10)


@dataclass(frozen=True, slots=True)
class Bench:
    """Embedded parts for one benchmark."""

    url: str
    fleet: Fleet
    lm: LMServer
    folder: Path

    @contextmanager
    def workers(
        self,
        count: int,
        pool: str,
        concurrency: int = 4,
        *,
        fleet: Fleet | None = None,
        environment: Mapping[str, str] | None = None,
        module: str = "workers.worker_command",
    ) -> Generator[list[int]]:
        """Run workers on them, and yield their process ids.

        Args:
            count: number of worker processes.
            pool: the pool by its name.
            concurrency: predictions at a time of each.
            fleet: another fleet, whose queue they consume.
            environment: further settings.
            module: what runs as the worker.
        """
        fleet = fleet or self.fleet
        folder = self.folder / fleet.queue
        folder.mkdir(exist_ok=True)
        profiles = self.folder / "profiles.toml"
        profiles.write_text(
            f'[profiles.bench]\nmodel = "{MODEL}"\napi_base = "{self.lm.url}"\napi_key_env = "DSPEX_BENCH_KEY"\n'
        )
        settings = {
            "DSPEX_REDIS_URL": self.url,
            "DSPEX_QUEUE": fleet.queue,
            "DSPEX_LM_PROFILES": str(profiles),
            "DSPEX_BENCH_KEY": "none-needed",
            **(environment or {}),
        }
        with worker_processes(
            fleet, count, pool, settings, folder, concurrency=concurrency, name=fleet.queue, module=module
        ) as workers:
            yield [worker.pid for worker in workers]


@contextmanager
def bench(*, latency_s: float = 0.0, fast: bool = False) -> Generator[Bench]:
    """Yield a fleet's parts: embedded Redis, the stand-in LM and a client; no workers yet."""
    with tempfile.TemporaryDirectory(prefix="dspex-bench-") as name:
        folder = Path(name)
        with EmbeddedRedis.start(folder / "redis") as redis, lm_server(folder, latency_s=latency_s, fast=fast) as lm:
            yield Bench(redis.url, Fleet(redis.url), lm, folder)


def free_port() -> int:
    """Return a port on loopback that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def cpu_s(pid: int) -> float:
    """Return the CPU seconds that a process and its children have used so far."""
    process = psutil.Process(pid)
    return sum(sum(member.cpu_times()[:2]) for member in (process, *process.children(recursive=True)))


def child(command: list[str], log: Path) -> Child:
    """Start a contestant in a process of its own, from the checkout."""
    return Child([sys.executable, *command], log, cwd=ROOT, env=dict(os.environ))
