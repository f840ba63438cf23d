"""Waiting in vain: the error says where the prediction is, and an id that nobody submitted is told at once."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import PredictionTimeoutError, PredictionUnknownError
from snakepit_bridge.process.home_loop import run_blocking
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import wait_until, within

ROOT = Path(__file__).parents[2]
SPEC = {"module": "Predict", "signature": "question -> answer"}


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage")) as playing:
        playing.fleet.register("plain", SPEC, lm="demo")
        yield playing


def nobodys(play: Stage) -> Fleet:
    """A fleet with a queue that no worker takes from; the name is one that leaks.py knows as a queue's."""
    return Fleet(play.url, queue=f"{fresh('nobody')}.predictions")


@pytest.mark.parametrize("change", ["id", "database", "namespace", "queue"])
def test_a_task_that_is_nowhere_is_told_within_seconds(play: Stage, change: str) -> None:
    """An unknown id, a wrong queue or a wrong database doesn't wait for ten minutes."""
    elsewhere = nobodys(play)
    task_id = elsewhere.submit("plain", {"question": "never asked"}).id
    asking = {
        "id": Fleet(play.url),
        "database": Fleet(play.url.rpartition("/")[0] + "/7", queue=elsewhere.queue),
        "namespace": Fleet(play.url, namespace=fresh("staging")),
        "queue": Fleet(play.url),
    }[change]
    if change == "id":
        task_id = fresh("nobody-submitted-this")
    with within(30), pytest.raises(PredictionUnknownError, match=rf"{task_id}.*queue '{asking.queue}' of redis://"):
        asking.handle(task_id).get()
    elsewhere.handle(task_id).cancel()


async def test_it_is_told_to_coroutines_as_well(play: Stage) -> None:
    with pytest.raises(PredictionUnknownError):
        await play.fleet.handle(fresh("nobody"))


def test_a_task_that_waits_is_waited_for_and_its_place_is_told(play: Stage) -> None:
    """The error of a timeout says where the prediction is."""
    fleet = nobodys(play)
    first = fleet.submit("plain", {"question": "never asked"})
    single = fleet.submit("plain", {"question": "never asked"})
    batch = fleet.submit_batch("plain", [{"question": "never asked"}] * 2)
    for task_id, behind in ((first.id, 0), (single.id, 1), (batch[1].id, 2)):
        with pytest.raises(PredictionTimeoutError, match=rf"waits in queue '{fleet.queue}', behind {behind} others"):
            Fleet(play.url, queue=fleet.queue).handle(task_id).get(3.5)


def test_a_task_that_runs_is_waited_for_however_it_is_asked_for(play: Stage) -> None:
    question = fresh("q")
    play.lm.hang(times=2, containing=question)
    batch = play.fleet.submit_batch("plain", [{"question": question}] * 2)
    play.await_asked(question, 2)
    with pytest.raises(PredictionTimeoutError, match="It is with a worker"):
        play.fleet.handle(batch[0].id).get(3.5)
    with pytest.raises(PredictionTimeoutError, match="It is with a worker"):
        batch[1].get(0.1)
    for handle in batch:
        handle.cancel()


def test_a_task_that_a_limit_holds_up_is_told_from_one_that_nobody_submitted(play: Stage) -> None:
    session = fresh("session")
    play.fleet.session(session).blocking.set_variables({"dspex.limits.concurrency": 0})
    handle = play.fleet.submit("plain", {"question": fresh("q")}, session=session)
    finder: Any = play.fleet.handle(handle.id)._finder

    async def place() -> str:
        return (await finder.find(handle.id)).place

    wait_until(lambda: run_blocking(place()) == "waits for a limit of its LM profile or session", "it to be parked")
    with pytest.raises(PredictionTimeoutError, match="waits for a limit"):
        handle.get(0.1)
    handle.cancel()


FIRST_RESULT = """
import asyncio, json, sys, time
from snakepit_bridge.client import Fleet

async def main(url, question):
    gaps, fleet = [], Fleet(url)
    async def tick():
        last = time.monotonic()
        while True:
            await asyncio.sleep(0.005)
            gaps.append(time.monotonic() - last)
            last = time.monotonic()
    ticking = asyncio.create_task(tick())
    await asyncio.sleep(0.05)
    start = time.monotonic()
    handle = fleet.submit("plain", {"question": question})
    loaded_by_submit = "dspy" in sys.modules
    await handle
    print(json.dumps({"longest_gap_s": max(gaps), "whole_s": time.monotonic() - start, "submit": loaded_by_submit,
                      "loaded": "dspy" in sys.modules}))

asyncio.run(main(*sys.argv[1:]))
"""


def test_the_first_submit_and_the_first_result_leave_an_event_loop_running(play: Stage) -> None:
    """DSPy is loaded beside the event loop, which takes seconds."""
    command = [sys.executable, "-c", FIRST_RESULT, play.url, fresh("q")]
    measured = json.loads(subprocess.run(command, capture_output=True, check=True, text=True, cwd=ROOT).stdout)
    assert measured["loaded"]
    assert not measured["submit"]
    assert measured["longest_gap_s"] < measured["whole_s"] / 2, measured
