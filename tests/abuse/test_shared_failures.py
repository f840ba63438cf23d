"""Hundreds of predictions that fail together for one reason, on every pool: each its own end, no death.

What fails for one reason is awaited by many: a session's read, a program's look-up, a round trip to Redis, the limits,
the leader of an answer cache. All workers stand on one stage, so that they meet each reason at the same time. The long
form repeats the reasons hundreds of times, each time on thousands of predictions together.
"""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.exceptions import (
    BridgeError,
    DeadlineExceededError,
    LMRefusedError,
    LMUnavailableError,
    PayloadLostError,
    ProgramNotFoundError,
    RevisionNotReachedError,
    SessionNotFoundError,
    ValidationError,
)
from snakepit_bridge.protocol.token import Token
from tasks.rate_limits.rules import FLEET_SESSION
from tests.harness.containers import LocalTestWorker
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S

# By pool: how many predictions it runs at a time, and how many are sent to it together.
POOLS = {"asyncio": (1_000, 80), "threads": (32, 40), "prefork": (2, 8)}
LARGE = 4_000
WAIT_S = PATIENCE_S
ROUNDS = 1
SOAK_ROUNDS = 300
# What a worker's log must not hold: each says that one task reached into another.
FOUL = (
    "let through",
    "already executing",
    "ignored GeneratorExit",
    "closed from outside",
    "Segmentation fault",
    "Fatal Python error",
    "Exception ignored in",
    "exited with",
    "never retrieved",
)


@dataclass(frozen=True)
class Ground:
    """The stage, and for each pool its worker and the way to it."""

    play: Stage
    fleets: dict[str, Fleet]
    workers: dict[str, LocalTestWorker]

    def pids(self) -> dict[str, int]:
        """The processes, as far as they live."""
        return {
            pool: worker.container.pid for pool, worker in self.workers.items() if worker.container.returncode is None
        }

    def send(self, program: str, *, same: bool = False, **options: Any) -> list[Handle]:
        """Send the pools' predictions, each with a question of its own, or all with one."""
        question = fresh("q")
        return [
            fleet.submit(program, {"question": question if same else f"{question} {number}"}, **options)
            for pool, fleet in self.fleets.items()
            for number in range(POOLS[pool][1])
        ]


# A profile of its own, whose limit concerns no other program.
_RARE = """
[profiles.rare]
model = "openai/rare"
api_base = "{url}"
api_key_env = "STAGE_LM_KEY"
"""


@pytest.fixture(scope="module")
def ground(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ground]:
    folder: Path = tmp_path_factory.mktemp("stage")
    settings: dict[str, Any] = {"DSPEX_PAYLOAD_BYTES": str(LARGE), "DSPEX_REDIS_TIMEOUT_S": "2"}
    with stage(folder, worker=False, more_profiles=_RARE, **settings) as play:
        fleets = {pool: Fleet(play.url, queue=pool, wait_s=WAIT_S, payload_bytes=LARGE) for pool in POOLS}
        started = {
            pool: play.start(
                wait=False, pool=pool, concurrency=most, queues=(pool,), name=pool, env={"DSPEX_QUEUE": pool}
            )
            for pool, (most, _) in POOLS.items()
        }
        register(play.fleet)
        for worker in started.values():
            worker.container.ready()
        yield Ground(play, fleets, started)


def register(fleet: Fleet) -> None:
    predict = dspy.Predict("question -> answer")
    fleet.register("plain", predict)
    fleet.register("bound", predict, bindings={"temperature": "temp"})
    fleet.register("down", predict, lm="down")
    fleet.register("locked", predict, lm="locked")
    fleet.register("led", predict, lm="locked", cache={"ttl_s": 60, "share": "fleet"})
    fleet.register("led-down", predict, lm="down", cache={"ttl_s": 60, "share": "fleet"})
    fleet.register("limited", predict, lm="rare")


# ---------------------------------------------------------------- the reasons


def no_session(ground: Ground) -> list[Handle]:
    return ground.send("plain", session=fresh("never"))


def no_revision(ground: Ground) -> list[Handle]:
    session = fresh("s")
    token = ground.play.fleet.session(session).blocking.set_variables({"temp": 0.5})
    return ground.send("plain", session=session, at_least=Token(token.epoch, token.revision + 5))


def no_program(ground: Ground) -> list[Handle]:
    return ground.send(fresh("nobody"))


def refused_value(ground: Ground) -> list[Handle]:
    session = fresh("s")
    ground.play.fleet.session(session).blocking.set_variables({"temp": "hot"})
    return ground.send("bound", session=session)


def lm_down(ground: Ground) -> list[Handle]:
    return ground.send("down", deadline=4)


def lm_refuses(ground: Ground) -> list[Handle]:
    return ground.send("locked")


def leader_refused(ground: Ground) -> list[Handle]:
    return ground.send("led", same=True)


def leader_down(ground: Ground) -> list[Handle]:
    return ground.send("led-down", same=True, deadline=4)


def limit_holds(ground: Ground) -> list[Handle]:
    ground.play.fleet.session(FLEET_SESSION).blocking.set_variables({"dspex.limits.rare.requests_per_min": 1.0})
    return ground.send("limited", deadline=2)


def no_payload(ground: Ground) -> list[Handle]:
    """Its inputs travel beside the messages, and are gone before these come."""
    control = ground.play.fleet.app.control
    for pool in POOLS:
        control.cancel_consumer(
            pool, destination=[ground.workers[pool].container.node], reply=True, timeout=PATIENCE_S, limit=1
        )
    question = fresh("q") + "x" * LARGE
    sent = [
        fleet.submit("plain", {"question": question})
        for pool, fleet in ground.fleets.items()
        for _ in range(POOLS[pool][1])
    ]
    with Redis.from_url(ground.play.url) as client:
        client.delete(*client.keys("dspex:payload:*"))  # type: ignore[misc]
    for pool in POOLS:
        control.add_consumer(
            pool, destination=[ground.workers[pool].container.node], reply=True, timeout=PATIENCE_S, limit=1
        )
    return sent


def connections_cut(ground: Ground) -> list[Handle]:
    """All of them while predictions run, several times."""
    ground.play.lm.delay(0.5)
    before = len(ground.play.lm.requests)
    sent = ground.send("plain", session=published(ground))
    with Redis.from_url(ground.play.url) as client:
        for number in range(1, 6):
            # Shares of the requests that come in any case: all may have come by now, and no further one be awaited.
            ground.play.lm.wait_for_requests(before + number * len(sent) // 6, PATIENCE_S)
            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)
    return sent


def server_stands_still(ground: Ground, seconds: float = 3.5) -> list[Handle]:
    """It neither answers nor hangs up, for longer than anybody's timeout, while predictions run."""
    ground.play.lm.delay(0.2)
    with Redis.from_url(ground.play.url) as client:
        pid = client.info("server")["process_id"]  # type: ignore[index]
    before = len(ground.play.lm.requests)
    sent = ground.send("plain", session=published(ground))
    ground.play.lm.wait_for_requests(before + 1, PATIENCE_S)
    os.kill(pid, signal.SIGSTOP)
    threading.Timer(seconds, os.kill, (pid, signal.SIGCONT)).start()
    return sent


def published(ground: Ground) -> str:
    session = fresh("s")
    ground.play.fleet.session(session).blocking.set_variables({"temp": 0.5})
    return session


Reason = Callable[[Ground], list[Handle]]

# Each with how its predictions may end; "ok" is an answer.
REASONS: list[tuple[Reason, set[str]]] = [
    (no_session, {SessionNotFoundError.__name__}),
    (no_revision, {RevisionNotReachedError.__name__}),
    (no_program, {ProgramNotFoundError.__name__}),
    (refused_value, {ValidationError.__name__}),
    (lm_down, {LMUnavailableError.__name__, DeadlineExceededError.__name__}),
    (lm_refuses, {LMRefusedError.__name__}),
    (leader_refused, {LMRefusedError.__name__}),
    (leader_down, {LMUnavailableError.__name__, DeadlineExceededError.__name__}),
    (limit_holds, {DeadlineExceededError.__name__, "ok"}),
    (no_payload, {PayloadLostError.__name__}),
    (connections_cut, {"ok"}),
    (server_stands_still, {"ok"}),
]
# Outages, which cost a prediction time and nothing else.
MAY_PASS = (connections_cut, server_stands_still)
NAMED = [pytest.param(reason, ends, id=reason.__name__) for reason, ends in REASONS]


# ---------------------------------------------------------------- what must hold


async def ends_of(handles: Iterable[Handle]) -> list[Any]:
    """How predictions end, awaited side by side: an answer, or the error of each."""

    async def end(handle: Handle) -> Any:
        return await handle

    return await asyncio.gather(*(end(handle) for handle in handles), return_exceptions=True)


@contextmanager
def unharmed(ground: Ground) -> Generator[None]:
    """Assert that the workers outlive a block, that none reached from one task into another, and that they work."""
    before, logged = ground.pids(), {pool: len(each.logs()) for pool, each in ground.workers.items()}
    assert set(before) == set(POOLS)
    try:
        yield
    finally:
        ground.play.lm.faults.clear()
        assert ground.pids() == before, [each.container.tail(40) for each in ground.workers.values()]
        for pool, worker in ground.workers.items():
            written = worker.logs()[logged[pool] :]
            assert not [line for line in written.splitlines() if any(foul in line for foul in FOUL)], pool
    for fleet in ground.fleets.values():
        assert fleet.submit("plain", {"question": "still there?"}).get(PATIENCE_S).answer == "answer of still there?"


def fail_together(ground: Ground, reason: Reason, ends: set[str]) -> None:
    found = asyncio.run(ends_of(reason(ground)))
    counts = Counter(type(each).__name__ if isinstance(each, BaseException) else "ok" for each in found)
    assert set(counts) <= ends, counts
    assert set(counts) & ends - {"ok"} or reason in MAY_PASS, f"nothing failed: {counts}"
    errors = [each for each in found if isinstance(each, BridgeError)]
    assert len({id(each) for each in errors}) == len(errors), "two who waited got one and the same error"


@pytest.mark.parametrize(("reason", "ends"), NAMED)
def test_what_fails_together_ends_each_by_itself(ground: Ground, reason: Reason, ends: set[str]) -> None:
    with unharmed(ground):
        for _ in range(ROUNDS):
            fail_together(ground, reason, ends)


def test_a_batch_whose_inputs_fail_together_ends_each_by_itself(ground: Ground) -> None:
    with unharmed(ground):
        inputs = [{"question": f"{number}"} for number in range(100)]
        cases: list[tuple[str, dict[str, Any], type[BridgeError]]] = [
            ("plain", {"session": fresh("never")}, SessionNotFoundError),
            ("locked", {}, LMRefusedError),
            (fresh("nobody"), {}, ProgramNotFoundError),
        ]
        for program, options, kind in cases:
            sent = [
                handle for fleet in ground.fleets.values() for handle in fleet.submit_batch(program, inputs, **options)
            ]
            assert {type(each) for each in asyncio.run(ends_of(sent))} == {kind}


@pytest.mark.soak
@pytest.mark.parametrize(("reason", "ends"), NAMED)
def test_what_fails_together_again_and_again(ground: Ground, reason: Reason, ends: set[str]) -> None:
    slow = reason in (lm_down, leader_down, limit_holds, server_stands_still, connections_cut)
    with unharmed(ground):
        for _ in range(SOAK_ROUNDS // 10 if slow else SOAK_ROUNDS):
            fail_together(ground, reason, ends)


@pytest.mark.soak
@pytest.mark.timeout(1_200)
def test_a_server_that_is_away_for_seconds_with_hundreds_running(ground: Ground) -> None:
    for _ in range(12):
        with unharmed(ground):
            found = asyncio.run(ends_of(server_stands_still(ground, 8.0)))
            assert {type(each).__name__ for each in found} == {"FleetPrediction"}
