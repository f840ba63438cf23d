"""Parts of the chaos benchmark: a stage of brokers and workers, and what happens on it."""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import redis
from celery import Celery

from benchmarks._chaos_points import POINTS, QUEUE, TASK
from benchmarks._network import Network
from snakepit_bridge.delivery.keys import DeliveryKeys
from workers.dev.process import Child
from workers.dev.redis_server import EmbeddedRedis
from workers.pools import Pool

ROOT = Path(__file__).parent.parent
_POLL_S = 0.05
# How long nothing may change, with nothing waiting or held anywhere, before what has no result is lost.
_QUIET_S = 3.0


_OUTSTANDING = """
local count = redis.call('LLEN', KEYS[1]) + redis.call('HLEN', KEYS[2]) + redis.call('ZCARD', KEYS[3])
for _, held in ipairs(redis.call('KEYS', ARGV[1])) do
  count = count + redis.call('HLEN', held)
end
return count
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to happen.

    Attributes:
        tasks: predictions, each under a key of its own; every 50th is sent twice.
        kills: workers that are killed, a third of them at each named point.
        workers, concurrency: who works.
        latency_s: of the LM.
        lease_s: of the fleet, and the visibility timeout of stock Celery.
        restarts, pauses, cuts: how often the broker is killed and started again, stands still, and is cut off.
        away_s: for how long it is away each time.
        limit_s: after which whatever is missing counts as lost.
        pool: the fleet's; stock Celery runs on threads.
    """

    tasks: int
    kills: int
    workers: int = 4
    concurrency: int = 8
    latency_s: float = 0.2
    lease_s: float = 5.0
    restarts: int = 2
    pauses: int = 2
    cuts: int = 2
    away_s: float = 10.0
    limit_s: float = 900.0
    pool: Pool = Pool.threads


class WorkerProcess(Protocol):
    """A worker, as ``Child`` has it."""

    @property
    def running(self) -> bool: ...
    @property
    def returncode(self) -> int | None: ...
    def end(self, sign: int = ..., timeout_s: float = ...) -> int: ...


class StartProcess(Protocol):
    """Starts a process, as ``Child`` does."""

    def __call__(self, command: Sequence[str], log: Path, *, env: Mapping[str, str], cwd: Path) -> WorkerProcess: ...


@dataclass(slots=True)
class Stage:
    """One contestant's broker, LM and workers; ``start_process`` is how a worker is started."""

    kind: str
    plan: Plan
    broker: EmbeddedRedis
    ledger: redis.Redis
    network: Network
    folder: Path
    start_process: StartProcess = Child
    workers: list[WorkerProcess] = field(default_factory=list[WorkerProcess])
    exits: int = 0
    results: dict[str, str] = field(default_factory=dict[str, str])

    def start(self, place: int) -> WorkerProcess:
        """Start a worker; each second one reaches the broker through the network that can be cut."""
        url = self.broker.url if place % 2 == 0 else f"redis://127.0.0.1:{self.network.port}/0"
        pool = self.plan.pool if self.kind == "fleet" else Pool.threads
        environment = {
            **os.environ, **pool.environment, "CHAOS_KIND": self.kind, "CHAOS_LATENCY_S": str(self.plan.latency_s),
            "CHAOS_LEASE_S": str(self.plan.lease_s), "CHAOS_LEDGER": _url(self.ledger), "DSPEX_REDIS_URL": url,
            "DSPEX_LEASE_S": str(self.plan.lease_s), "DSPEX_QUEUE": QUEUE, "DSPEX_MAX_DELIVERIES": "20",
        }  # fmt: skip
        command = [sys.executable, "-m", "celery", "-A", "benchmarks._chaos_app", "worker", "-Q", QUEUE,
                   "--pool", pool.celery_name, "-c", str(self.plan.concurrency), "-l", "WARNING",
                   "-n", f"{self.kind}{place}@chaos", "--without-mingle", "--without-gossip", "--without-heartbeat",
                   ]  # fmt: skip
        return self.start_process(command, self.folder / f"{self.kind}-{place}.log", cwd=ROOT, env=environment)

    def send(self) -> None:
        """Send the tasks, as any Celery client does."""
        app = Celery("client", broker=self.broker.url, set_as_current=False)
        app.conf.task_create_missing_queues = True
        with app.connection_for_write() as connection, app.amqp.Producer(connection) as producer:
            for number in range(self.plan.tasks):
                for copy in range(2 if number % 50 == 25 else 1):
                    key = f"key-{number}"
                    app.send_task(
                        TASK, (f"{key}:{copy}",), task_id=key, queue=QUEUE, producer=producer, ignore_result=False
                    )

    def look(self) -> int:
        """Note the results that have come since, each as it is first seen, and return how many there are."""
        missing = [key for number in range(self.plan.tasks) if (key := f"key-{number}") not in self.results]
        for start in range(0, len(missing), 2_000):
            for key, result in self._read(missing[start : start + 2_000]).items():
                self.results[key] = result
        return len(self.results)

    def _read(self, keys: list[str]) -> Mapping[str, str]:
        try:
            with redis.Redis.from_url(self.broker.url, socket_timeout=5) as client:
                found: Any = client.mget([f"celery-task-meta-{key}" for key in keys])
        except redis.RedisError:
            return {}  # it is away, on purpose
        ended = ((key, json.loads(raw)) for key, raw in zip(keys, found, strict=True) if raw)
        return {key: json.dumps(meta["result"]) for key, meta in ended if meta["status"] == "SUCCESS"}

    def keep_running(self) -> None:
        """Start a worker in the place of each that has ended."""
        for place, worker in enumerate(self.workers):
            if not worker.running:
                worker.end()
                self.exits += worker.returncode != -signal.SIGKILL
                self.workers[place] = self.start(place)

    def outstanding(self) -> int:
        """Return how many messages wait or are held at one moment; -1 if the broker can't say."""
        layout = DeliveryKeys.of("dspex")
        try:
            with redis.Redis.from_url(self.broker.url, socket_timeout=5) as client:
                count: Any = client.eval(_OUTSTANDING, 3, QUEUE, "unacked", layout.delayed, f"{layout.base}:held:*")
        except redis.RedisError:
            return -1
        return count

    def figures(self) -> dict[str, int]:
        """Return what became of the tasks."""
        self.look()
        last = self._read(list(self.results))
        finished, flying = self.ledger.mget("finished_repeated", "flying_repeated")
        most: Any = self.ledger.zrange("deliveries", -1, -1, withscores=True)
        return {
            "lost": self.plan.tasks - len(self.results),
            "max_deliveries": int(most[0][1]) if most else 0,
            "double_commits": sum(last.get(key) != first for key, first in self.results.items()),
            "finished_calls_repeated": int(finished or 0),
            "flying_calls_repeated": int(flying or 0),
            "exits": self.exits,
        }


def _url(client: redis.Redis) -> str:
    known: dict[str, Any] = client.connection_pool.connection_kwargs
    return f"redis://{known['host']}:{known['port']}/{known['db']}"


@contextmanager
def stage(kind: str, plan: Plan, folder: Path, start_process: StartProcess = Child) -> Generator[Stage]:
    """Set a stage: a broker that logs its changes, an LM that counts, and nobody working yet."""
    with EmbeddedRedis.start(aof=True) as broker, EmbeddedRedis.start() as lm:
        port = int(broker.url.rsplit(":", 1)[1].split("/")[0])
        with redis.Redis.from_url(lm.url) as ledger, Network(port) as network:
            playing = Stage(kind, plan, broker, ledger, network, folder, start_process)
            try:
                yield playing
            finally:
                network.mend()
                for worker in playing.workers:
                    worker.end(signal.SIGKILL)


def play(
    kind: str,
    plan: Plan,
    folder: Path,
    tell: Callable[[str], object] = lambda _: None,
    start_process: StartProcess = Child,
) -> dict[str, int]:
    """Play the whole plan with one contestant and return its figures."""
    with stage(kind, plan, folder, start_process) as playing:
        playing.send()
        playing.workers = [playing.start(place) for place in range(plan.workers)]
        for event in _events(plan):
            _wait(playing, lambda event=event: playing.look() >= event.after, plan.limit_s)
            tell(f"{kind}: {len(playing.results)} of {plan.tasks} done, {event.what}")
            _happen(playing, event)
        _settle(playing)
        return playing.figures()


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happens once so many tasks are done."""

    after: int
    what: str


def _events(plan: Plan) -> list[Event]:
    """Return what happens, spread evenly over the run; the same each time."""
    kills = [(*POINTS, "anywhere")[n % 4] for n in range(plan.kills)]
    outages = ["restart"] * plan.restarts + ["pause"] * plan.pauses + ["cut"] * plan.cuts
    chance = random.Random(6)
    chance.shuffle(outages)
    order = list(kills)
    for n, what in enumerate(outages):
        order.insert((n + 1) * len(order) // (len(outages) + 1), what)
    # The last quarter is left for what the last of them leave behind.
    return [Event(plan.tasks * 3 * n // (4 * len(order)), what) for n, what in enumerate(order)]


def _happen(playing: Stage, event: Event) -> None:
    plan, broker = playing.plan, playing.broker
    if event.what == "restart":
        broker.kill()
        time.sleep(plan.away_s / 5)
        broker.restart()
    elif event.what == "pause":
        os.kill(broker.pid, signal.SIGSTOP)
        time.sleep(plan.away_s)
        os.kill(broker.pid, signal.SIGCONT)
    elif event.what == "cut":
        playing.network.cut()
        _wait(playing, lambda: False, plan.away_s)
        playing.network.mend()
    elif event.what == "anywhere":
        random.choice(playing.workers).end(signal.SIGKILL)
    else:
        _kill_at(playing, event.what)
    playing.keep_running()


def _kill_at(playing: Stage, point: str) -> None:
    """Have the next process that comes to a point die there, and wait until one has."""
    running = [worker for worker in playing.workers if worker.running]
    playing.ledger.rpush(f"armed:{point}", "1")
    _wait(playing, lambda: not all(worker.running for worker in running), playing.plan.limit_s / 10, keep=False)


def _wait(playing: Stage, condition: Callable[[], bool], limit_s: float, *, keep: bool = True) -> None:
    deadline = time.monotonic() + limit_s
    while not condition() and time.monotonic() < deadline:
        if keep:
            playing.keep_running()
        time.sleep(_POLL_S)


def _settle(playing: Stage) -> None:
    """Wait until all is done, or nothing has been outstanding for a while and what is missing is lost."""
    quiet = [time.monotonic()]

    def done() -> bool:
        if playing.outstanding() != 0:
            quiet[0] = time.monotonic()
        return playing.look() == playing.plan.tasks or time.monotonic() - quiet[0] > _QUIET_S

    _wait(playing, done, playing.plan.limit_s)
    # What is done may still be about to be acknowledged, or to run a second time.
    _wait(playing, lambda: playing.outstanding() == 0, playing.plan.lease_s * 3)
