"""Workers that die at named points of a task: nothing is lost, and what is done again is what must be.

Stock Celery dies at the same point beside the fleet. If it lost nothing there, the fleet's losing nothing would prove
nothing.
"""

from __future__ import annotations

import signal
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import pytest

from benchmarks._chaos import Plan, Stage, stage
from tests.harness.preloaded import start_preloaded
from tests.harness.waiting import wait_until
from workers.pools import Pool

TASKS = 12

pytestmark = pytest.mark.chaos


@contextmanager
def killed_at(point: str, kind: str, folder: Path, pool: Pool = Pool.threads) -> Generator[Stage]:
    """A worker that ran one task at a time has died at a point, and another one has taken over."""
    plan = Plan(TASKS, kills=1, workers=1, concurrency=1, latency_s=0.01, lease_s=1.0, pool=pool)
    with stage(kind, plan, folder, start_preloaded) as playing:
        playing.send()
        playing.ledger.rpush(f"armed:{point}", "1")
        worker = playing.start(0)
        playing.workers.append(worker)
        wait_until(lambda: not worker.running, f"the worker to die when it has {point}", timeout_s=60)
        assert worker.returncode == -signal.SIGKILL
        playing.keep_running()
        wait_until(
            lambda: playing.look() == TASKS or playing.outstanding() == 0, "all that can be done to be", timeout_s=60
        )
        wait_until(lambda: playing.outstanding() == 0, "nothing to be held any more", timeout_s=30)
        yield playing


@pytest.mark.parametrize("pool", [Pool.threads, Pool.asyncio])
@pytest.mark.parametrize(
    ("point", "called_again"),
    [
        ("claimed", 0),
        ("called", 1),  # an answer that nobody has seen is asked for again
        ("committed", 0),  # what has its result is acknowledged and not run
    ],
)
def test_the_fleet_loses_nothing_wherever_a_worker_dies(
    point: str, called_again: int, pool: Pool, tmp_path: Path
) -> None:
    with killed_at(point, "fleet", tmp_path, pool) as playing:
        figures = playing.figures()
        assert (figures["lost"], figures["double_commits"]) == (0, 0)
        assert (figures["finished_calls_repeated"], figures["flying_calls_repeated"]) == (0, called_again)
        assert figures["max_deliveries"] <= 2
        assert playing.outstanding() == 0


def test_stock_celery_loses_the_task_of_a_worker_that_dies_with_a_fresh_message(tmp_path: Path) -> None:
    with killed_at("claimed", "stock", tmp_path) as playing:
        assert playing.figures()["lost"] == 1
