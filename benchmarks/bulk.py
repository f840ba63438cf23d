"""How much memory does a bulk run take, in the client and in Redis, and is it resumed exactly after kill -9?

``dspex-fleet batch`` predicts a file of 200,000 lines on two workers. Its process is killed in the middle and started
again. ``client_rss_mb`` is the client's memory at its peak, and ``redis_peak_mb`` what Redis held at its peak beyond
what it held before. ``resumed_exactly``: each line stands once in the output, in order and answered, and the LM was
called as often as there are lines.

``redis`` is what one prediction costs Redis: ``commands`` (those within scripts included), ``bytes`` over the network,
CPU time, and how many predictions a second one of its cores would bear.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
import psutil
from redis import Redis

from benchmarks._bare import SIGNATURE
from benchmarks._parts import ROOT, Bench, bench

_LINES, _QUICK_LINES = 200_000, 2_000
_WORKERS, _EACH = 2, 1_000
_LATENCY_S = 0.5
_LOOK_S = 0.1
_KILLED = -9


def run(lines: int | None = None, *, quick: bool = False) -> dict[str, Any]:
    """Return the figures of one run."""
    lines = lines or (_QUICK_LINES if quick else _LINES)
    with bench(latency_s=_LATENCY_S, fast=True) as parts:
        parts.fleet.register("bench", dspy.Predict(SIGNATURE))
        source, output = parts.folder / "in.jsonl", parts.folder / "out.jsonl"
        with source.open("w", encoding="utf-8") as file:
            file.writelines(json.dumps({"question": f"What is {number} + 1?"}) + "\n" for number in range(lines))
        with parts.workers(_WORKERS, "asyncio", _EACH, environment={"DSPEX_BATCH_IN_FLIGHT": str(_EACH)}):
            parts.fleet.submit("bench", {"question": "Ready?"}).get()
            return _measure(parts, source, output, lines)


def _measure(parts: Bench, source: Path, output: Path, lines: int) -> dict[str, Any]:
    with Redis.from_url(parts.url) as redis:
        before, began = _Spent.read(redis), time.monotonic()
        client = _Client(parts, source, output, redis)
        assert client.run(until=lambda written: written >= lines // 2) == _KILLED
        code = client.run(until=lambda _: False)
        passed_s, after = time.monotonic() - began, _Spent.read(redis)
    calls = parts.fleet.cost("program").total.usage.calls - 1
    is_exact = code == 0 and calls == lines and _is_complete(output, lines)
    return {
        "lines": lines,
        "client_rss_mb": round(client.rss_mb),
        "redis_peak_mb": round(client.redis_mb - before.memory_mb, 1),
        "per_s": round(lines / passed_s),
        "resumed_exactly": is_exact,
        "redis": after.each(before, lines),
    }


class _Client:
    """Runs the client's process, and looks at its memory and at that of Redis meanwhile."""

    def __init__(self, parts: Bench, source: Path, output: Path, redis: Redis) -> None:
        arguments = ["batch", "bench", "--input", str(source), "--output", str(output), "--in-flight", "2000"]
        self._command = [sys.executable, "-m", "snakepit_bridge.cli", "--redis-url", parts.url, *arguments]
        self._output = output
        self._redis = redis
        self._offset = self._written = 0
        self.rss_mb = self.redis_mb = 0.0

    def run(self, until: Callable[[int], bool]) -> int:
        """Run it until the output has so many lines, and kill it then; return how it ended."""
        with subprocess.Popen(self._command, stdout=sys.stderr, cwd=ROOT) as process:
            seen = psutil.Process(process.pid)
            while process.poll() is None:
                if until(self._count()):
                    process.kill()
                    break
                self._look(seen)
                time.sleep(_LOOK_S)
        return process.returncode

    def _look(self, process: psutil.Process) -> None:
        try:
            self.rss_mb = max(self.rss_mb, process.memory_info().rss / 2**20)
        except psutil.NoSuchProcess:
            return
        self.redis_mb = max(self.redis_mb, _Spent.read(self._redis).memory_mb)

    def _count(self) -> int:
        """Return how many lines the output has, by reading only what is new."""
        if self._output.exists():
            with self._output.open("rb") as file:
                file.seek(self._offset)
                new = file.read()
            self._offset, self._written = self._offset + len(new), self._written + new.count(b"\n")
        return self._written


@dataclass(frozen=True, slots=True)
class _Spent:
    """What a Redis has done since it was started, and the memory that it holds."""

    commands: int
    bytes: int
    cpu_s: float
    memory_mb: float

    @classmethod
    def read(cls, redis: Redis) -> _Spent:
        info: Any = redis.info("everything")
        commands = sum(value["calls"] for name, value in info.items() if name.startswith("cmdstat_"))
        network = info["total_net_input_bytes"] + info["total_net_output_bytes"]
        return cls(commands, network, info["used_cpu_user"] + info["used_cpu_sys"], info["used_memory"] / 2**20)

    def each(self, before: _Spent, count: int) -> dict[str, float]:
        """Return what each of so many predictions has cost since an earlier look."""
        cpu_s = (self.cpu_s - before.cpu_s) / count
        return {
            "commands": round((self.commands - before.commands) / count, 1),
            "bytes": round((self.bytes - before.bytes) / count),
            "cpu_us": round(cpu_s * 1e6, 1),
            "per_core_s": round(1 / cpu_s) if cpu_s else 0,
        }


def _is_complete(output: Path, lines: int) -> bool:
    """Return whether each line is in the output once, in order and answered."""
    number, tasks = 0, set[str]()
    with output.open("rb") as file:
        for number, raw in enumerate(file, 1):
            record = json.loads(raw)
            if record["line"] != number or "outputs" not in record:
                return False
            tasks.add(record["provenance"]["task_id"])
    return number == len(tasks) == lines
