"""A rollout while its controller, other workers and Redis are killed: stages in order, keys that stay, exact counts."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import dspy
import pytest
from redis import Redis
from redis.exceptions import RedisError

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.provenance import Provenance
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutState, assign
from tests.harness import servers
from tests.harness.containers import LocalTestWorker, local_redis
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until
from workers.dev.redis_server import EmbeddedRedis

SESSION = "staged"
SHARES = (0.2, 0.4, 0.6)
# Other tests run beside these, so that they leave most of the machine to them.
IN_FLIGHT = 5
LATER_S = 1e12
"""A time at which every stage has begun."""


def policy(min_s: float, min_predictions: int) -> str:
    """Return a policy whose guard no healthy candidate breaches."""
    stages = [{"share": share, "min_s": min_s, "min_predictions": min_predictions} for share in SHARES]
    return json.dumps({"stages": stages, "guards": [{"metric": "error_rate", "max_increase": 0.05}]})


@dataclass
class Traffic:
    """Predictions that are made all the time, and what they ran under."""

    fleet: Fleet
    over: threading.Event = field(default_factory=threading.Event)
    ended: list[tuple[str, Provenance]] = field(default_factory=list[tuple[str, Provenance]])
    problems: Counter[str] = field(default_factory=Counter[str])
    numbers: Any = field(default_factory=count)

    def run(self) -> None:
        """Predict until it is over, under ever new keys and under some that come back."""
        while not self.over.is_set():
            number = next(self.numbers)
            key = f"user-{number % 500}" if number % 2 else f"new-{number}"
            try:
                handle = self.fleet.submit("qa", {"question": fresh("q")}, session=SESSION, key=key)
            except StoreUnavailableError:
                time.sleep(0.1)
                continue
            try:
                self.ended.append((key, handle.get(120).provenance))
            except Exception as exc:  # noqa: BLE001 - counted, and shown by the test
                self.problems[f"{type(exc).__name__}: {exc}"] += 1


@pytest.fixture
def redis() -> Generator[EmbeddedRedis]:
    with local_redis() as server:
        yield server.server


@pytest.fixture
def play(redis: EmbeddedRedis, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    settings: dict[str, Any] = {"DSPEX_LEASE_S": "2", "DSPEX_MAX_DELIVERIES": "100"}
    with stage(tmp_path_factory.mktemp("stage"), worker=False, url=redis.url, **settings) as play:
        for _ in range(4):
            play.start(pool="asyncio", concurrency=60, wait=False)
        for worker in play.workers:
            worker.container.ready()
        play.fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "warmth"})
        play.lm.delay(0.1, 0.2)
        yield play


def events(play: Stage) -> list[RolloutEvent]:
    return run_blocking(play.fleet.store.rollout_events(SESSION, limit=1_000))


def kill_controller(play: Stage) -> None:
    """Kill the worker that moves rollouts on with SIGKILL, and start it again."""
    worker = wait_until(lambda: find_controller(play), "a controller that lives", timeout_s=30)
    worker.container.kill()
    worker.container._container.restart()


def find_controller(play: Stage) -> LocalTestWorker | None:
    """Return the worker that holds the controller's lease; a dead one's lease expires within seconds."""
    with Redis.from_url(play.url, decode_responses=True) as client:
        owner = str(client.get("dspex:rollouts:lease") or "nobody/0/")
    return next((each for each in play.workers if each.container.pid == int(owner.split("/")[1])), None)


def kill_redis(redis: EmbeddedRedis) -> None:
    servers.await_log_written(redis.url)
    redis.kill()
    redis.restart()

    def loaded() -> bool:
        with suppress(RedisError), Redis.from_url(redis.url) as client:
            return client.ping() is True
        return False

    wait_until(loaded, "the data to be loaded")


def counted(play: Stage) -> Counter[tuple[str, int, str]]:
    """Return how many predictions were counted, by rollout, stage and arm."""
    total: Counter[tuple[str, int, str]] = Counter()
    with Redis.from_url(play.url, decode_responses=True) as client:
        for key in client.scan_iter("dspex:{r:*:counts:*", count=1_000):
            name, _, rest = key.removeprefix("dspex:{r:").partition("}:counts:")
            number, arm, _ = rest.split(":")
            amount: Any = client.hget(key, "n")
            total[name, int(number), arm] += int(amount or 0)
    return total


def assert_keys_stay(found: list[tuple[str, Provenance]], happened: list[RolloutEvent]) -> None:
    """Assert that each key has the arm that its stage's share gives it, and that the shares are kept."""
    records = {(event.record.id, event.record.stage): event.record for event in happened if event.kind == "stage"}
    arms: dict[tuple[str, int], Counter[str]] = defaultdict(Counter)
    for key, provenance in found:
        for arm in provenance.arms:
            record = records[arm["rollout"], arm["stage"]]
            assert arm["arm"] == assign(record, key, LATER_S, "").arm, (key, arm)
            if key.startswith("new-"):
                arms[record.id, record.stage][arm["arm"]] += 1
    for (name, number), split in arms.items():
        total, share = split.total(), records[name, number].share / 1e6
        # Four standard deviations, and the one point that a share may be off.
        spread = 4 * math.sqrt(share * (1 - share) / total) + 0.01
        assert abs(split["candidate"] / total - share) <= spread, (name, number, split)


def assert_stages_in_order(happened: list[RolloutEvent]) -> None:
    """Assert that the stages of each rollout began one after the other, none skipped, none twice."""
    stages: dict[str, list[int]] = defaultdict(list)
    for event in happened:
        if event.kind == "stage":
            stages[event.record.id].append(event.record.stage)
    for name, numbers in stages.items():
        assert numbers == list(range(1, len(numbers) + 1)), (name, numbers)
    sequences = defaultdict(list)
    for event in happened:
        sequences[event.record.id].append(event.record.sequence)
    for numbers in sequences.values():
        assert numbers == sorted(set(numbers)), numbers


def played(
    play: Stage, redis: EmbeddedRedis, *, least: int, min_s: float, min_predictions: int, in_flight: int = IN_FLIGHT
) -> None:
    variables = play.fleet.session(SESSION).blocking
    variables.set_variables({"warmth": 0.1, POLICY_VARIABLE: policy(min_s, min_predictions)})
    play.fleet.submit("qa", {"question": "first"}, session=SESSION).get(PATIENCE_S)
    variables.set_variable("warmth", 0.2)
    traffic = Traffic(Fleet(play.url, wait_s=120))
    with ThreadPoolExecutor(in_flight) as threads:
        for _ in range(in_flight):
            threads.submit(traffic.run)
        try:
            wait_until(lambda: [e for e in events(play) if e.kind == "stage"], "the first stage", timeout_s=30)
            kill_controller(play)
            wait_until(lambda: [e for e in events(play) if e.record.stage == 2], "the second stage", timeout_s=90)
            variables.set_variable("warmth", 0.3)
            play.workers[1].container.kill()
            play.workers[1].container._container.restart()
            kill_redis(redis)
            kill_controller(play)
            wait_until(lambda: [e for e in events(play) if e.kind == "promoted"], "a promotion", timeout_s=240)
            wait_until(lambda: len(traffic.ended) >= least, f"{least} predictions", timeout_s=240)
        finally:
            traffic.over.set()
    assert not traffic.problems
    happened = events(play)
    assert_stages_in_order(happened)
    assert_keys_stay(traffic.ended, happened)
    assert happened[-1].kind == "promoted"
    committed = Counter(
        (arm["rollout"], arm["stage"], arm["arm"]) for _, provenance in traffic.ended for arm in provenance.arms
    )
    assert counted(play) == committed


def test_a_rollout_survives_kills_of_all_that_it_runs_on(play: Stage, redis: EmbeddedRedis) -> None:
    played(play, redis, least=400, min_s=0.5, min_predictions=15)


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_a_rollout_over_twenty_thousand_predictions(play: Stage, redis: EmbeddedRedis) -> None:
    played(play, redis, least=20_000, min_s=10.0, min_predictions=300, in_flight=150)


def test_a_candidate_that_fails_is_rolled_back_by_itself(play: Stage) -> None:
    variables = play.fleet.session(SESSION).blocking
    play.fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "warmth", "model": "model"})
    variables.set_variables({"warmth": 0.1, "model": "demo", POLICY_VARIABLE: policy(3_600, 10)})
    play.fleet.submit("qa", {"question": "first"}, session=SESSION).get(PATIENCE_S)
    traffic = Traffic(Fleet(play.url, wait_s=60))
    with ThreadPoolExecutor(IN_FLIGHT) as threads:
        for _ in range(IN_FLIGHT):
            threads.submit(traffic.run)
        try:
            variables.set_variable("model", "locked")
            ended = wait_until(lambda: [e for e in events(play) if e.kind == "rolled_back"], "a rollback", timeout_s=60)
            assert ended[-1].record.state is RolloutState.ROLLED_BACK
            assert ended[-1].detail
        finally:
            traffic.over.set()
    assert {arm["arm"] for _, found in traffic.ended for arm in found.arms} <= {"baseline", "candidate"}
    late = play.fleet.submit("qa", {"question": fresh("q")}, session=SESSION, key="late").get(PATIENCE_S).provenance
    assert (late.variables["model"], list(late.arms)) == ("demo", [])
