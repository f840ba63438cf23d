"""Does a second worker bring a second worker's throughput, and does a long queue make each prediction dearer?

``workers``: 1, 2 and 4 worker processes, a hundred predictions at a time each, at an LM that takes 2 s, so that waiting
and not the machine's cores bounds them. ``queued``: CPU milliseconds per prediction, of the worker and of the broker,
while so many wait in the queue, and how many bytes of Redis each takes beyond its inputs. The worker takes two thousand
at most; the rest is there to be in the way.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Sequence
from statistics import median
from typing import Any
from uuid import uuid4

import dspy
from redis import Redis

from benchmarks._bare import SIGNATURE, TEMPERATURE
from benchmarks._load import closed_loop
from benchmarks._parts import Bench, bench, cpu_s
from snakepit_bridge.client import Fleet
from workers.dev.demo.parts import await_condition

_EACH = 100
_WAVES = 4
_TAKEN = 2_000
_IN_FLIGHT = 200
_AT_ONCE = 1_000
_SILENT_S = 20.0
_INPUTS = {"question": "What is 3 + 1?"}


def run(*, quick: bool = False) -> dict[str, Any]:
    """Return throughput by number of workers, and cost by length of the queue."""
    workers, lengths = ((1, 2), (100, 1_000)) if quick else ((1, 2, 4), (100, 1_000, 10_000, 100_000, 1_000_000))
    latency_s, predictions = (1.0, 300) if quick else (2.0, _TAKEN)
    with bench(latency_s=latency_s, fast=True) as parts:
        _prepare(parts.fleet)
        by_workers = {str(count): _throughput(parts, count) for count in workers}
    with bench(latency_s=0.2, fast=True) as parts:
        _prepare(parts.fleet)
        with parts.workers(1, "asyncio", _IN_FLIGHT) as (worker,):
            queue = _Queue(parts, worker)
            queue.cost(100, predictions)
            by_length = {str(length): queue.cost(length, predictions) for length in lengths}
    return {"workers": by_workers, "queued": by_length}


def _prepare(fleet: Fleet) -> None:
    fleet.session("bench").blocking.set_variable("temperature", TEMPERATURE)
    fleet.register("bench", dspy.ChainOfThought(SIGNATURE), bindings={"temperature": "temperature"})


def _throughput(parts: Bench, count: int) -> dict[str, float]:
    async def predict(number: int) -> None:
        await parts.fleet.submit("bench", {"question": f"What is {number} + 1?"}, session="bench")

    with parts.workers(count, "asyncio", _EACH):
        asyncio.run(closed_loop(predict, _EACH * count, _EACH * count))
        done = asyncio.run(closed_loop(predict, _EACH * count * _WAVES, _EACH * count))
    sys.stderr.write(f"  {count} workers: {done.per_s:.1f}/s\n")
    return {"per_s": round(done.per_s, 1), "per_worker_s": round(done.per_s / count, 1)}


class _Queue:
    """A queue that is filled to some length while its worker takes nothing."""

    def __init__(self, parts: Bench, worker: int) -> None:
        self._fleet = parts.fleet
        self._worker = worker
        self._redis: Redis = Redis.from_url(parts.url)
        self._broker = int(self._redis.info("server")["process_id"])
        self._logs = [parts.folder / self._fleet.queue / "worker-1.log"]
        self._redis_bytes = list[float]()
        self._hold(True)
        self._sample = self._sampled()

    def cost(self, length: int, predictions: int) -> dict[str, float]:
        """Return CPU milliseconds per prediction, and bytes of Redis, at this length of the queue."""
        self._redis_bytes.clear()
        rounds = max(1, predictions // length)
        spent = [self._round(length, min(predictions, length)) for _ in range(rounds)]
        total = sum(done for _, _, done in spent)
        figures = {
            "cpu_ms": round(sum(worker for worker, _, _ in spent) / total * 1000, 3),
            "broker_cpu_ms": round(sum(broker for _, broker, _ in spent) / total * 1000, 3),
            "redis_bytes": round(median(self._redis_bytes)),
        }
        sys.stderr.write(f"  {length} queued: {figures}\n")
        return figures

    def _round(self, length: int, predictions: int) -> tuple[float, float, int]:
        self._fill(length)
        with self._redis.pubsub() as heard:
            heard.subscribe(self._fleet.results.reply_channel)
            assert heard.get_message(timeout=_SILENT_S)
            worker, broker = cpu_s(self._worker), cpu_s(self._broker)
            self._hold(False)
            done = sum(bool(heard.get_message(timeout=_SILENT_S)) for _ in range(predictions))
            assert done == predictions, f"only {done} of {predictions} predictions ended"
        spent = cpu_s(self._worker) - worker, cpu_s(self._broker) - broker
        self._hold(True)
        self._redis.delete(*self._lists())
        await_condition(lambda: not self._running(), "an idle worker", self._logs)
        return *spent, done

    def _fill(self, length: int) -> None:
        """Put messages into the list, each with an id of its own; sending so many one by one would take minutes."""
        where, raw, task_id = self._sample
        before = self._used_memory()
        for start in range(0, length, _AT_ONCE):
            copies = [raw.replace(task_id, str(uuid4()).encode()) for _ in range(min(_AT_ONCE, length - start))]
            self._redis.lpush(where, *copies)
        self._redis_bytes.append((self._used_memory() - before) / length - len(json.dumps(_INPUTS)))

    def _used_memory(self) -> int:
        return int(self._redis.info("memory")["used_memory"])

    def _sampled(self) -> tuple[bytes, bytes, bytes]:
        """Send one prediction, and return the list that it waits in, its message and its id."""
        handle = self._fleet.submit("bench", _INPUTS, session="bench")
        [where] = [name for name in self._lists() if self._redis.llen(name)]
        raw: Any = self._redis.lpop(where)
        assert json.loads(raw)["headers"]["id"] == handle.id
        return where, raw, handle.id.encode()

    def _lists(self) -> Sequence[bytes]:
        found: Any = self._redis.keys(f"{self._fleet.queue}*")
        return [name for name in found if self._redis.type(name) == b"list"] or [self._fleet.queue.encode()]

    def _hold(self, held: bool) -> None:
        control = self._fleet.app.control
        tell = control.cancel_consumer if held else control.add_consumer
        assert tell(self._fleet.queue, reply=True, timeout=10, limit=1)

    def _running(self) -> bool:
        active = self._fleet.app.control.inspect(timeout=2, limit=1).active() or {}
        return any(active.values()) or not active
