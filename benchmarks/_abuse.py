"""Parts of the abuse benchmark: a stage with two workers, everything at once on it, and what became of every task."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import statistics
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from benchmarks._abuse_acts import CANARY_QUESTION, PACKAGE, Act, Acts, prepare
from benchmarks._abuse_trouble import Trouble
from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.testing import AskedQuestion, RecordingLM
from tests.harness.leaks import leaked_keys
from workers.dev.process import Child
from workers.dev.redis_server import EmbeddedRedis
from workers.pools import Pool

ROOT = Path(__file__).parent.parent
CANARY_KEY = "sk-canary-of-the-abuse-benchmark"

_POLL_S = 0.1
_READ_AT_ONCE = 2_000
_ENDED = ("SUCCESS", "FAILURE", "REVOKED")
# Of prefork's children the main process tells in its log.
_CHILD_DIED = re.compile(r"Process '\S+' pid:\d+ exited with|WorkerLostError")

_PROFILES = """\
default = "good"
[profiles.good]
model = "openai/gpt-4o-mini"
api_base = "{url}"
api_key_env = "ABUSE_KEY"
[profiles.bad]
model = "openai/gpt-4o-mini"
api_base = "{url}"
api_key_env = "ABUSE_KEY"
circuit = {{ failures = 20, open_s = 1 }}
limits = {{ timeout_s = 3 }}
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to happen on one pool.

    Attributes:
        pool: the workers' pool.
        tasks: how many are to be accepted at least.
        concurrency: predictions at a time, of each of the workers.
        workers: how many.
        in_flight: tasks that are accepted and not ended, at most.
        trouble_every_s: seconds between two troubles of Redis.
        settle_s: seconds after the last submit within which everything must have ended.
        seed: of everything that is drawn.
    """

    pool: Pool
    tasks: int
    concurrency: int
    workers: int = 2
    in_flight: int = 300
    trouble_every_s: float = 6.0
    settle_s: float = 240.0
    seed: int = 1


@dataclass(slots=True)
class Ledger:
    """Every accepted task with the act that it came of, and how it was first seen to have ended."""

    accepted: dict[str, str] = field(default_factory=dict[str, str])
    ended: dict[str, str] = field(default_factory=dict[str, str])
    unnamed: dict[str, int] = field(default_factory=dict[str, int])
    leaks: int = 0

    @property
    def pending(self) -> list[str]:
        """The tasks that haven't ended yet."""
        return [id for id in tuple(self.accepted) if id not in self.ended]

    def look(self, client: Redis) -> None:
        """Note the ends that have come since."""
        pending = self.pending
        for start in range(0, len(pending), _READ_AT_ONCE):
            chunk = pending[start : start + _READ_AT_ONCE]
            for id, raw in zip(chunk, _read(client, chunk), strict=True):
                if raw is not None and (end := json.loads(raw))["status"] in _ENDED:
                    self.ended[id] = _digest(raw)
                    self._note(end, raw)

    def doubled(self, client: Redis) -> int:
        """Return how many tasks have another end than they had first."""
        ids = list(self.ended)
        changed = 0
        for start in range(0, len(ids), _READ_AT_ONCE):
            chunk = ids[start : start + _READ_AT_ONCE]
            found = zip(chunk, _read(client, chunk), strict=True)
            changed += sum(raw is not None and _digest(raw) != self.ended[id] for id, raw in found)
        return changed

    def _note(self, end: dict[str, Any], raw: bytes) -> None:
        self.leaks += CANARY_KEY.encode() in raw
        result = end.get("result")
        module = str(result.get("exc_module", "")) if isinstance(result, dict) else ""
        if end["status"] != "SUCCESS" and not module.startswith("snakepit_bridge"):
            name = str(result.get("exc_type") if isinstance(result, dict) else result)
            self.unnamed[name] = self.unnamed.get(name, 0) + 1


def _read(client: Redis, ids: list[str]) -> list[Any]:
    found: Any = client.mget([f"celery-task-meta-{id}" for id in ids])
    return found


def _digest(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()


@dataclass(slots=True)
class Workers:
    """The worker processes: one that ends is counted, and another is started in its place, as a supervisor does."""

    plan: Plan
    folder: Path
    environment: dict[str, str]
    deaths: int = 0
    _running: list[Child] = field(default_factory=list[Child])

    def start(self) -> None:
        """Start them all."""
        self._running = [self._start(place) for place in range(self.plan.workers)]

    def keep(self) -> None:
        """Count those that have ended, and start others."""
        for place, worker in enumerate(self._running):
            if not worker.running:
                self.deaths += 1
                worker.end()
                self._running[place] = self._start(place)

    def end(self) -> None:
        """End them all."""
        for worker in self._running:
            worker.end()

    def logs(self) -> Iterator[str]:
        """Yield the lines of their logs."""
        for path in sorted(self.folder.glob("worker-*.log")):
            with path.open(encoding="utf-8", errors="replace") as lines:
                yield from lines

    def _start(self, place: int) -> Child:
        pool = self.plan.pool
        command = [sys.executable, "-m", "workers.worker_command", "-Q", pool.queue_names("predictions"), "-l", "INFO"]
        command += ["--pool", pool.celery_name, "-c", str(self.plan.concurrency), "-n", f"abuse{place}@here"]
        command += ["--without-mingle", "--without-gossip"]
        log = self.folder / f"worker-{place}.log"
        return Child(command, log, cwd=ROOT, env={**os.environ, **self.environment, **pool.environment})


@contextmanager
def _stage(plan: Plan, folder: Path) -> Generator[tuple[EmbeddedRedis, Fleet, Workers]]:
    with EmbeddedRedis.start(aof=True) as server, RecordingLM(_answer, api_key=CANARY_KEY, keep=1) as lm:
        profiles = folder / "profiles.toml"
        profiles.write_text(_PROFILES.format(url=lm.url), encoding="utf-8")
        environment = {
            "DSPEX_REDIS_URL": server.url, "DSPEX_LM_PROFILES": str(profiles), "ABUSE_KEY": CANARY_KEY,
            "DSPEX_ALLOWED_PACKAGES": PACKAGE, "DSPEX_RETRY_BACKOFF_S": "0.1", "DSPEX_RESULT_EXPIRES_S": "7200",
            "DSPEX_LEASE_S": "3", "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        }  # fmt: skip
        fleet = Fleet(server.url, allowed_packages=[PACKAGE])
        prepare(fleet, lm)
        workers = Workers(plan, folder, environment)
        workers.start()
        try:
            yield server, fleet, workers
        finally:
            workers.end()


def _answer(ask: AskedQuestion) -> dict[str, Any]:
    return {"answer": f"of {next(iter(ask.inputs.values()), '')}"[:200]}


def play(plan: Plan, folder: Path, tell: Callable[[str], object]) -> dict[str, Any]:
    """Play the whole plan and return its figures."""
    with _stage(plan, folder) as (server, fleet, workers):
        _await_answer(fleet, workers)
        trouble, ledger = Trouble(server, plan.trouble_every_s, random.Random(plan.seed)), Ledger()
        neighbour = Neighbour(fleet)
        neighbour.start()
        trouble.start()
        try:
            _submit(plan, Acts(fleet, random.Random(plan.seed)), ledger, server, workers, tell)
        finally:
            trouble.stop()
        tell(f"{plan.pool}: {len(ledger.accepted)} accepted, waiting for {len(ledger.pending)}; {trouble.happened}")
        _settle(plan, ledger, server, workers)
        neighbour.stop()
        return _figures(ledger, server, workers, neighbour, trouble)


def _await_answer(fleet: Fleet, workers: Workers) -> None:
    fleet.submit("qa", {"question": "ready?"}).get(120)
    workers.keep()


def _submit(
    plan: Plan, acts: Acts, ledger: Ledger, server: EmbeddedRedis, workers: Workers, tell: Callable[[str], object]
) -> None:
    """Act until so many tasks are accepted, with a bounded number that haven't ended."""
    reported = 0
    with Redis.from_url(server.url, socket_timeout=5) as client, ThreadPoolExecutor(24) as threads:
        while len(ledger.accepted) < plan.tasks:
            room = plan.in_flight - len(ledger.pending)
            acts_to_try = [acts.draw() for _ in range(min(max(room, 0) // 2, 48))]
            for accepted in threads.map(Act.attempt, acts_to_try):
                ledger.accepted.update(accepted)
            _look(ledger, client)
            workers.keep()
            if len(ledger.accepted) - reported >= plan.tasks // 10:
                reported = len(ledger.accepted)
                tell(f"{plan.pool}: {reported} of {plan.tasks} accepted, {workers.deaths} deaths")
            if not acts_to_try:
                time.sleep(_POLL_S)


def _look(ledger: Ledger, client: Redis) -> None:
    try:
        ledger.look(client)
    except RedisError:
        time.sleep(_POLL_S)  # it is in trouble, on purpose


def _settle(plan: Plan, ledger: Ledger, server: EmbeddedRedis, workers: Workers) -> None:
    until = time.monotonic() + plan.settle_s
    with Redis.from_url(server.url, socket_timeout=5) as client:
        while ledger.pending and time.monotonic() < until:
            _look(ledger, client)
            workers.keep()
            time.sleep(_POLL_S)


class Neighbour:
    """An honest application: one prediction after the other, and how long each took."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._run, daemon=True) for _ in range(4)]
        self.took: list[tuple[float, float]] = []
        self.failed: dict[str, int] = {}

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, once the predictions under way are answered."""
        self._over.set()
        for thread in self._threads:
            thread.join()

    def p99_ms(self, windows: list[tuple[float, float]]) -> float:
        """Return the 99th percentile of those that no trouble of Redis fell into, in milliseconds."""
        calm = [s for begun, s in self.took if not any(a < begun + s and begun < b + 1 for a, b in windows)]
        return round(statistics.quantiles(calm, n=100)[98] * 1000, 1) if len(calm) > 1 else 0.0

    def _run(self) -> None:
        while not self._over.is_set():
            begun = time.monotonic()
            try:
                self._fleet.submit("qa", {"question": f"{CANARY_QUESTION}honest"}).get(120)
            except BridgeError as exc:
                self.failed[type(exc).__name__] = self.failed.get(type(exc).__name__, 0) + 1
            else:
                self.took.append((begun, time.monotonic() - begun))


def _figures(
    ledger: Ledger, server: EmbeddedRedis, workers: Workers, neighbour: Neighbour, trouble: Trouble
) -> dict[str, Any]:
    with Redis.from_url(server.url) as client:
        workers.end()
        leaked = leaked_keys(client)
        secrets = ledger.leaks + sum(CANARY_KEY in line or CANARY_QUESTION in line for line in workers.logs())
        secrets += _stored_secrets(client)
        doubled = ledger.doubled(client)
    deaths = workers.deaths + sum(bool(_CHILD_DIED.search(line)) for line in workers.logs())
    return {
        "tasks": len(ledger.accepted),
        "worker_deaths": deaths,
        "unended": len(ledger.pending),
        "double_ends": doubled,
        "leaked_secrets": secrets,
        "leaked_keys": len(leaked),
        "p99_neighbour_ms": neighbour.p99_ms(trouble.windows),
        "neighbours_failed": neighbour.failed,
        "unnamed_ends": ledger.unnamed,
        "unended_acts": dict(Counter(ledger.accepted[id] for id in ledger.pending)),
        "troubles": trouble.happened,
    }


def _stored_secrets(client: Redis) -> int:
    """How many keys hold the LM's key, whatever their type."""
    names: Any = client.keys("*")
    dumped = (client.dump(name) for name in names)
    return sum(CANARY_KEY.encode() in (raw or b"") for raw in dumped)
