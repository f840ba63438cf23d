"""Trouble with Redis costs time and nothing else.

Batches, streams, idempotency keys, priorities, limits and cancellations run while the server is killed and restarted,
stands still, loses its scripts, is full, and has its connections cut, and while workers are killed and paused. What was
accepted ends by its own answer, once; no stream breaks; nothing stays behind.

The server logs each change before it answers (AOF, everysec). While a slow fsync runs, it may postpone that by up to
two seconds, and a kill within them loses what was confirmed: see docs/concepts/delivery.md. So it is killed when
nothing is postponed.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import dspy
import pytest
from redis import Redis
from redis.exceptions import RedisError

from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.exceptions import BridgeError, PredictionCancelledError, StoreUnavailableError
from tests.harness import servers
from tests.harness.containers import local_redis
from tests.harness.leaks import leaked_keys
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until
from workers.dev.redis_server import EmbeddedRedis

LIMITED = "limited"
SETTINGS: dict[str, Any] = {"DSPEX_LEASE_S": "2", "DSPEX_MAX_DELIVERIES": "100"}


@dataclass
class Run:
    """What was asked while there was trouble, and how it ended."""

    play: Stage
    redis: EmbeddedRedis
    seed: int
    chance: random.Random = field(init=False)
    patient: Fleet = field(init=False)
    over: threading.Event = field(default_factory=threading.Event)
    sent: list[tuple[Handle, str]] = field(default_factory=list[tuple[Handle, str]])
    cancelled: set[str] = field(default_factory=set[str])
    ends: dict[str, str] = field(default_factory=dict[str, str])
    stored: dict[str, bytes] = field(default_factory=dict[str, bytes])
    broken: list[str] = field(default_factory=list[str])
    keys: dict[str, str] = field(default_factory=dict[str, str])

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self.patient = Fleet(self.play.url, wait_s=120)
        # A client that has never reached its server doesn't wait for it: it may be the wrong one.
        assert self.patient.handle(fresh("none")).status == "PENDING"

    @property
    def server(self) -> Redis:
        """A client that waits for no server that stands still."""
        return Redis.from_url(self.play.url, socket_timeout=1, socket_connect_timeout=1)

    # ------------------------------------------------------------ what is asked

    def ask(self, end: Callable[[Callable[[], object]], object]) -> None:
        """Ask until the trouble is over; what the broker doesn't take is asked again, or not."""
        ways = [self._single, self._batch, self._keyed, self._limited, self._streamed, self._cancelled]
        chance = random.Random(self.seed + 1)
        while not self.over.is_set():
            way = chance.choice(ways)
            with suppress(StoreUnavailableError):
                for handle, question in way(chance):
                    self.sent.append((handle, question))
                    end(lambda handle=handle, question=question: self.await_end(handle, question))
                    if way == self._streamed:
                        end(lambda handle=handle, question=question: self.follow(handle, question))
            time.sleep(0.02)

    def _single(self, chance: random.Random) -> list[tuple[Handle, str]]:
        question = fresh("q")
        return [(self.play.fleet.submit("qa", {"question": question}, priority=chance.randrange(10)), question)]

    def _batch(self, chance: random.Random) -> list[tuple[Handle, str]]:
        questions = [fresh("b") for _ in range(chance.randrange(2, 40))]
        handles = self.play.fleet.submit_batch("qa", [{"question": question} for question in questions])
        return list(zip(handles, questions, strict=True))

    def _keyed(self, chance: random.Random) -> list[tuple[Handle, str]]:
        question = fresh("k")
        while True:
            try:
                handle = self.play.fleet.submit("qa", {"question": question}, idempotency_key=question)
            except StoreUnavailableError:
                time.sleep(0.1)
                continue
            again = self.play.fleet.submit("qa", {"question": question}, idempotency_key=question)
            assert again.id == handle.id
            return [(handle, question)]

    def _limited(self, chance: random.Random) -> list[tuple[Handle, str]]:
        question = fresh("l")
        return [(self.play.fleet.submit("qa", {"question": question}, session=LIMITED), question)]

    def _streamed(self, chance: random.Random) -> list[tuple[Handle, str]]:
        question = f"{fresh('s')} {' '.join(f'word{number}' for number in range(20))}"
        return [(self.play.fleet.submit("qa", {"question": question}, stream=True), question)]

    def _cancelled(self, chance: random.Random) -> list[tuple[Handle, str]]:
        (handle, question), *_ = self._single(chance)
        self.cancelled.add(handle.id)
        with suppress(StoreUnavailableError):
            handle.cancel()
        return [(handle, question)]

    # ------------------------------------------------------------ how it ends

    def await_end(self, handle: Handle, question: str) -> None:
        """Note how a prediction ended."""
        try:
            answer = handle.get(120).answer
            self.ends[handle.id] = "" if answer == f"answer of {question}" else f"another's answer: {answer}"
        except PredictionCancelledError:
            self.ends[handle.id] = "" if handle.id in self.cancelled else "cancelled by nobody"
        except BridgeError as exc:
            self.ends[handle.id] = f"{type(exc).__name__}: {exc}"

    def follow(self, handle: Handle, question: str) -> None:
        """Read a stream to its end, and note what is wrong with it."""

        async def read() -> str:
            pieces: dict[tuple[int, int], str] = {}
            async for piece in self.patient.handle(handle.id).stream():
                where = (piece.attempt, piece.call)
                pieces[where] = "" if piece.replaced else pieces.get(where, "") + piece.text
            return pieces[max(pieces)] if pieces else ""

        try:
            text = asyncio.run(read())
        except BridgeError as exc:
            self.broken.append(f"{type(exc).__name__}: {exc}")
        else:
            if text != f"answer of {question}":
                self.broken.append(f"it reads {text!r}")

    # ------------------------------------------------------------ trouble

    def trouble(self, rounds: int, longest_s: float) -> list[str]:
        """Make so many kinds of trouble, one after the other, and return which."""
        ways = [self._pause, self._cut, self._flush_scripts, self._fill, self._kill_worker, self._pause_worker]
        names = []
        for number in range(rounds):
            way = self._kill if number % 4 == 1 else self.chance.choice(ways)
            names.append(way.__name__)
            way(self.chance.uniform(0.2, longest_s))
            time.sleep(self.chance.uniform(0.3, 0.8))
        return names

    def _kill(self, seconds: float) -> None:
        server = self.redis
        servers.await_log_written(server.url)
        server.kill()
        time.sleep(seconds)
        server.restart()

    def _pause(self, seconds: float) -> None:
        self._stand_still(self.redis.pid, seconds)

    def _pause_worker(self, seconds: float) -> None:
        self._stand_still(self.chance.choice(self.play.workers).container.pid, seconds + 2)

    @staticmethod
    def _stand_still(pid: int, seconds: float) -> None:
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    def _cut(self, seconds: float) -> None:
        with self.server as client, suppress(RedisError):
            for kind in ("normal", "pubsub"):
                client.execute_command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")

    def _flush_scripts(self, seconds: float) -> None:
        with self.server as client:
            client.script_flush()

    def _fill(self, seconds: float) -> None:
        with self.server as client:
            client.config_set("maxmemory", "1mb")
            time.sleep(seconds)
            client.config_set("maxmemory", "0")

    def _kill_worker(self, seconds: float) -> None:
        place = self.chance.randrange(len(self.play.workers))
        self.play.workers[place].container.kill()
        time.sleep(seconds)
        self.play.workers[place].container._container.restart()


def assert_all_is_well(run: Run) -> None:
    """Assert that all that was accepted has ended, each by its own answer, and that nothing stays behind."""
    seed = f"(seed {run.seed})"
    unended = [handle.id for handle, _ in run.sent if handle.id not in run.ends]
    wrong = Counter(end for end in run.ends.values() if end)
    assert not unended, f"{len(unended)} of {len(run.sent)} have no end {seed}: {where(run, unended[:3])}"
    assert not wrong, f"{sum(wrong.values())} of {len(run.sent)} ended otherwise {seed}: {wrong.most_common(5)}"
    assert not run.broken, f"{len(run.broken)} streams broke {seed}: {run.broken[:3]}"
    with run.server as client:
        keys = ["dspex:delivery:held:*", "dspex:delivery:delayed", "predictions*", "dspex:{limits}:messages"]
        wait_until(
            lambda: not [key for name in keys for key in client.keys(name)],
            f"all messages settled {seed}",
            timeout_s=60,
        )
        # What a killed worker held lapses by its lease, and is taken away by whoever asks next.
        held = lambda: client.zcount("dspex:{limits}:leases", time.time() * 1000, "+inf")  # noqa: E731
        wait_until(lambda: not held(), f"all permits given back {seed}", timeout_s=30)
        assert client.zcard("dspex:delivery:dead") == 0
        assert not leaked_keys(client)


def where(run: Run, task_ids: list[str]) -> dict[str, list[str]]:
    """Return the keys in which tasks stand, for a test that has lost them."""
    found: dict[str, list[str]] = {task_id: [] for task_id in task_ids}
    with run.server as client:
        keys: Any = client.keys("*")
        for key in keys:
            kind = client.type(key)
            readers: dict[Any, Callable[[], Any]] = {
                b"list": lambda key=key: client.lrange(key, 0, -1),
                b"hash": lambda key=key: client.hgetall(key),
                b"zset": lambda key=key: client.zrange(key, 0, -1),
                b"string": lambda key=key: client.get(key),
            }
            value = readers[kind]() if kind in readers else b""
            for task_id in task_ids:
                if task_id in f"{key!r} {value!r}":
                    found[task_id].append(key.decode())
    return found


def played(run: Run, rounds: int, longest_s: float) -> None:
    """Ask, make trouble, and wait for all ends."""
    with ThreadPoolExecutor(4_000) as waiters:
        asking = threading.Thread(target=run.ask, args=(waiters.submit,), daemon=True)
        asking.start()
        troubles = run.trouble(rounds, longest_s)
        run.over.set()
        asking.join(PATIENCE_S)
        print(f"seed {run.seed}: {len(run.sent)} predictions, {troubles}")
        wait_until(lambda: len(run.ends) == len(run.sent), f"the ends (seed {run.seed})", timeout_s=100)
    assert_all_is_well(run)


@pytest.fixture(params=servers.KINDS)
def redis(request: pytest.FixtureRequest) -> Generator[EmbeddedRedis]:
    with local_redis(kind=request.param) as server:
        yield server.server


@pytest.fixture
def play(redis: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), worker=False, url=redis.url, **SETTINGS) as play:
        for pool in ("asyncio", "asyncio", "threads"):
            play.start(pool=pool, concurrency=40, wait=False)
        for worker in play.workers:
            worker.container.ready()
        play.fleet.register("qa", dspy.Predict("question -> answer"))
        play.fleet.session(LIMITED).blocking.set_variables({"dspex.limits.concurrency": 4.0})
        play.lm.delay(0.1, 0.2)
        yield play


def test_trouble_costs_time_and_nothing_else(play: Stage, redis: EmbeddedRedis) -> None:
    played(Run(play, redis, random.randrange(10**6)), 4, 1.0)


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 20, 300])
def test_much_trouble_costs_time_and_nothing_else(play: Stage, redis: EmbeddedRedis, seed: int) -> None:
    played(Run(play, redis, seed), 40, 6.0)
