"""The watchdog: a worker that hangs, a pool process that does, and one that is told to end."""

from __future__ import annotations

import json
import signal
from collections.abc import Generator
from pathlib import Path

import psutil
import pytest
from redis import Redis

from snakepit_bridge.cli.doctor import _stalls
from snakepit_bridge.cli.status import collect_status
from snakepit_bridge.delivery.stalls import Stall, Stalls
from snakepit_bridge.exceptions import PredictionGivenUpError
from snakepit_bridge.process.home_loop import run_blocking
from tests.harness.broker import held
from tests.harness.containers import LocalTestWorker
from tests.harness.stage import Stage, fresh, stage
from tests.harness.stalling import Stalling
from tests.harness.waiting import PATIENCE_S, wait_until

WAIT_S = PATIENCE_S


@pytest.fixture
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    with stage(folder, worker=False, DSPEX_ALLOWED_PACKAGES="tests", DSPEX_LEASE_S="2") as play:
        play.fleet.register("stalling", Stalling())
        yield play


def running(worker: LocalTestWorker) -> bool:
    return worker.container.returncode is None


@pytest.mark.parametrize(
    ("pool", "way"), [("asyncio", "regex"), pytest.param("threads", "regex", marks=pytest.mark.soak),
                      pytest.param("asyncio", "spin", marks=pytest.mark.soak),
                      pytest.param("threads", "sleep", marks=pytest.mark.soak)]
)  # fmt: skip
def test_a_worker_that_hangs_ends_when_it_is_told_to(play: Stage, pool: str, way: str) -> None:
    worker = play.start(pool=pool, concurrency=4, env={"DSPEX_STALL_LIMIT_S": "600"})
    mark = fresh("q")
    waits = play.fleet.submit("stalling", {"question": f"wait {mark}"})
    poison = play.fleet.submit("stalling", {"question": f"{way} {mark}"})
    wait_until(lambda: any(found.task_id for found in stalls(play)), "the stall to be reported")
    [stall] = [found for found in stalls(play) if found.pid == worker.container.pid]
    assert (stall.worker, stall.task_id, stall.ended_at) == (worker.container.node, poison.id, 0.0)
    assert "hang (" in stall.place
    [shown] = [stall for stall in collect_status(play.fleet)["stalls"] if stall["pid"] == worker.container.pid]
    assert shown["worker"] == worker.container.node
    [check] = [found for found in _stalls(play.fleet) if f"process {worker.container.pid})" in found.found]
    assert (check.level, worker.container.node in check.found) == ("fail", True)
    worker.container.kill(signal.SIGTERM)
    wait_until(lambda: not running(worker), "the worker to end", timeout_s=8)
    assert worker.container.returncode == -signal.SIGABRT
    # Nobody gave either of them up: one was only told to end.
    assert deliveries(play) == {waits.id: 1, poison.id: 2}


def test_a_worker_that_is_told_to_end_ends_in_its_time_and_hands_back_what_runs(play: Stage) -> None:
    worker = play.start(pool="asyncio", concurrency=4, env={"DSPEX_STOP_GRACE_S": "1"})
    waits = play.fleet.submit("stalling", {"question": f"wait {fresh('q')}"})
    wait_until(lambda: held_by_workers(play) == 1, "it to be taken")
    worker.container.kill(signal.SIGTERM)
    wait_until(lambda: not running(worker), "the worker to end", timeout_s=8)
    assert deliveries(play) == {waits.id: 1}


def test_a_worker_that_has_nothing_to_do_ends_well_however_short_the_lease_is(play: Stage) -> None:
    worker = play.start(pool="asyncio", concurrency=4, env={"DSPEX_LEASE_S": "1"})
    [watchdog] = psutil.Process(worker.container.pid).children()
    # It is handed the settings, with their secrets, on a pipe, and has loaded none of what DSPy is made of.
    assert watchdog.cmdline()[1:] == ["-P", "-m", "workers.watchdog"]
    assert "pydantic_core" not in {Path(each.path).parent.name for each in watchdog.memory_maps()}
    assert play.fleet.submit("stalling", {"question": fresh("q")}).get(WAIT_S).answer
    worker.container.kill(signal.SIGTERM)
    wait_until(lambda: not running(worker), "the worker to end")
    assert worker.container.returncode == 0
    assert "Watchdog" not in worker.logs()


@pytest.mark.parametrize("way", ["sleep", pytest.param("regex", marks=pytest.mark.soak)])
def test_a_pool_process_that_hangs_is_replaced_and_its_prediction_ends_by_name(play: Stage, way: str) -> None:
    # Alone in its process a prediction may compute for as long as it may be held.
    worker = play.start(pool="prefork", concurrency=1, env={"DSPEX_HOLD_LIMIT_S": "10", "DSPEX_STALL_LIMIT_S": "600"})
    # What the process loads for its first prediction counts as part of that limit.
    assert play.fleet.submit("stalling", {"question": fresh("q")}).get(WAIT_S).answer
    mark = fresh("q")
    poison = play.fleet.submit("stalling", {"question": f"{way} {mark}"})
    honest = play.fleet.submit("stalling", {"question": mark})
    assert mark in honest.get(WAIT_S).answer
    with pytest.raises(PredictionGivenUpError, match="hang"):
        poison.get(WAIT_S)
    assert running(worker)


@pytest.mark.soak
def test_a_worker_whose_pool_process_hangs_ends_in_its_time(play: Stage) -> None:
    worker = play.start(pool="prefork", concurrency=1, env={"DSPEX_STOP_GRACE_S": "1"})
    poison = play.fleet.submit("stalling", {"question": f"regex {fresh('q')}"})
    wait_until(lambda: held_by_workers(play) == 1, "it to be taken")
    worker.container.kill(signal.SIGTERM)
    wait_until(lambda: not running(worker), "the worker to end", timeout_s=15)
    assert set(deliveries(play)) == {poison.id}


def stalls(play: Stage) -> list[Stall]:
    return run_blocking(Stalls(play.fleet.connection).list_recent())


def held_by_workers(play: Stage) -> int:
    with Redis.from_url(play.url) as client:
        return len(held(client))


def deliveries(play: Stage) -> dict[str, int]:
    """How often each prediction was given out that waits in the queue."""
    with Redis.from_url(play.url) as client:
        waiting = [json.loads(raw) for name in client.keys("predictions*") for raw in client.lrange(name, 0, -1)]
    return {message["headers"]["id"]: message["properties"].get("deliveries", 1) for message in waiting}
