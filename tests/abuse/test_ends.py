"""Whatever goes wrong at whichever step of a task, everybody who waits gets an end.

One fault at a time is planned for a worker's next task, for a single prediction and for a batch. Afterwards each has an
answer or a named error, no message is held, and the worker still answers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import dspy
import pytest
from redis import Redis

from snakepit_bridge.client import Handle
from snakepit_bridge.exceptions import BridgeError
from tests.harness.faults import KINDS, STEPS
from tests.harness.leaks import leaked_keys
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import wait_until

SOON_S = 30
# What is tried again until it works comes twice, so that trying once more isn't enough.
TIMES = 2
# Python closes a coroutine by GeneratorExit: raised by code of ours, it can't be told from a worker that ends.
STRANGERS = "calling the program"

Fault = tuple[str, str]


@pytest.fixture(scope="module", params=["asyncio", "threads", pytest.param("prefork", marks=pytest.mark.soak)])
def play(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    folder: Path = tmp_path_factory.mktemp("stage")
    with stage(folder, worker=False, DSPEX_LEASE_S="2") as play:
        play.start(app="tests.harness.faulty_app", pool=request.param, concurrency=4)
        play.fleet.register("qa", dspy.Predict("question -> answer"))
        yield play


def ends_of(handles: Sequence[Handle], fault: Fault) -> list[str]:
    """Return how each ended: the name of its error, or nothing."""
    until, ends = time.monotonic() + SOON_S, list[str]()
    for handle in handles:
        try:
            ends.append(type(handle.get(max(0.1, until - time.monotonic()))).__name__)
        except BridgeError as exc:
            ends.append(type(exc).__name__)
    assert "PredictionTimeoutError" not in ends, f"after {fault} somebody waits for ever: {ends}"
    return ends


def meets(play: Stage, fault: Fault) -> list[str]:
    """Plan a fault, ask for one prediction and for a batch, and return how they ended."""
    step, kind = fault
    with Redis.from_url(play.url) as client:
        client.rpush(f"fault:{step}", *[kind] * TIMES)
        ends = ends_of([play.fleet.submit("qa", {"question": fresh("q")})], fault)
        client.delete(f"fault:{step}")
        client.rpush(f"fault:{step}", *[kind] * TIMES)
        ends += ends_of(play.fleet.submit_batch("qa", [{"question": fresh("q")} for _ in range(4)]), fault)
        client.delete(f"fault:{step}")
    return ends


def holds_nothing(play: Stage) -> None:
    """Assert that no message waits or is held, and that the worker answers."""
    assert play.fleet.submit("qa", {"question": fresh("last")}).get(SOON_S).answer
    with Redis.from_url(play.url) as client:
        keys = ["dspex:delivery:held:*", "dspex:delivery:delayed", "predictions*"]
        wait_until(lambda: not [key for name in keys for key in client.keys(name)], "the last message to be settled")
        assert not leaked_keys(client)


def planned(seed: int, count: int | None) -> list[Fault]:
    """Return faults in a random order: so many, in which each step and each kind comes, or all there are."""
    chance = random.Random(seed)
    every = [(step, kind) for step in STEPS for kind in KINDS if kind != "GeneratorExit" or step == STRANGERS]
    chance.shuffle(every)
    if count is None:
        return every
    steps, kinds, chosen = set(STEPS), set(KINDS), list[Fault]()
    for step, kind in every:
        if step in steps or kind in kinds:
            chosen.append((step, kind))
            steps.discard(step)
            kinds.discard(kind)
    return [*chosen, *every][:count]


def test_any_exception_at_any_step_ends_what_was_asked(play: Stage, request: pytest.FixtureRequest) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")
    for fault in planned(seed, 20):
        meets(play, fault)
    holds_nothing(play)


@pytest.mark.soak
def test_every_exception_at_every_step_ends_what_was_asked(play: Stage) -> None:
    for fault in planned(0, None):
        meets(play, fault)
    holds_nothing(play)
