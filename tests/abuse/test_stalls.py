"""Code that holds up a worker's event loop costs nobody but its own prediction, which ends by name."""

from __future__ import annotations

import signal
from collections.abc import Generator
from typing import Any

import pytest

from snakepit_bridge.client.handle import Handle
from snakepit_bridge.exceptions import PredictionGivenUpError
from tests.harness.containers import LocalTestWorker
from tests.harness.stage import Stage, fresh, stage
from tests.harness.stalling import Stalling, StallingInThread
from tests.harness.waiting import PATIENCE_S, wait_until

LIMIT_S = 4
HONEST = 300
WAIT_S = PATIENCE_S
BOUNDS: dict[str, Any] = {"DSPEX_ALLOWED_PACKAGES": "tests", "DSPEX_STALL_LIMIT_S": str(LIMIT_S), "DSPEX_LEASE_S": "2"}


@pytest.fixture
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), worker=False, **BOUNDS) as play:
        play.fleet.register("stalling", Stalling())
        play.fleet.register("threaded", StallingInThread())
        yield play


def two_workers(play: Stage, pool: str, concurrency: int) -> list[LocalTestWorker]:
    """Start two workers side by side."""
    names = ("one", "two")
    for name in names:
        play.start(wait=False, pool=pool, concurrency=concurrency, name=name)
    for worker in play.workers:
        worker.container.ready()
    return play.workers


def running(worker: LocalTestWorker) -> bool:
    return worker.container.returncode is None


def honest(play: Stage, count: int, mark: str) -> list[Handle]:
    return [play.fleet.submit("stalling", {"question": f"{mark} {number}"}) for number in range(count)]


@pytest.mark.parametrize(
    ("pool", "program", "way"),
    [
        ("asyncio", "stalling", "regex"),
        *(
            pytest.param(*case, marks=pytest.mark.soak)
            for case in (
                ("asyncio", "stalling", "spin"),
                ("asyncio", "stalling", "sleep"),
                ("asyncio", "stalling", "call"),
                ("asyncio", "stalling", "power"),
                ("asyncio", "threaded", "regex"),
                ("threads", "stalling", "regex"),
                ("threads", "stalling", "sleep"),
                ("threads", "threaded", "regex"),
            )
        ),
    ],
)
def test_one_poison_beside_hundreds_of_honest_predictions(play: Stage, pool: str, program: str, way: str) -> None:
    workers, mark = two_workers(play, pool, 100), fresh("q")
    before = honest(play, HONEST // 2, mark)
    poison = play.fleet.submit(program, {"question": f"{way} {mark}"})
    after = honest(play, HONEST // 2, f"{mark} after")
    for number, sent in enumerate([*before, *after]):
        assert mark in sent.get(WAIT_S).answer, number
    with pytest.raises(PredictionGivenUpError) as ended:
        poison.get(WAIT_S)
    assert ended.value.reason == "stalled"
    assert "hang (" in ended.value.error
    assert "stalling.py, line" in ended.value.error
    # Its end is stored before the process is ended; the other worker never meets it.
    dead = wait_until(
        lambda: next((candidate for candidate in workers if not running(candidate)), None), "the worker to be ended"
    )
    assert [candidate for candidate in workers if running(candidate)] == [
        candidate for candidate in workers if candidate is not dead
    ]
    assert dead.container.returncode == -signal.SIGABRT
    assert f"in prediction {poison.id} at hang" in dead.logs()
    assert mark in play.fleet.submit("stalling", {"question": mark}).get(WAIT_S).answer


@pytest.mark.soak
def test_one_poison_in_a_batch_costs_its_input_alone(play: Stage) -> None:
    workers, mark = two_workers(play, "asyncio", 100), fresh("q")
    questions = [f"{mark} {number}" for number in range(50)]
    questions[20] = f"regex {mark}"
    sent = play.fleet.submit_batch("stalling", [{"question": question} for question in questions])
    for number, handle in enumerate(sent):
        if number != 20:
            assert mark in handle.get(WAIT_S).answer, number
    with pytest.raises(PredictionGivenUpError) as ended:
        sent[20].get(WAIT_S)
    assert ended.value.reason == "stalled"
    wait_until(lambda: len([worker for worker in workers if running(worker)]) == 1, "one worker to be ended")
