"""A broker that lost the end of its log: what it still knows is run, and nothing falls between result and message."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from benchmarks._chaos import Plan, stage
from tests.harness.preloaded import start_preloaded
from tests.harness.waiting import wait_until

TASKS = 200
LOST_BYTES = 20_000

pytestmark = pytest.mark.chaos


def test_a_log_whose_end_is_gone_undoes_work_and_loses_no_task(tmp_path: Path) -> None:
    plan = Plan(TASKS, kills=0, workers=2, concurrency=4, latency_s=0.02, lease_s=1.0)
    with stage("fleet", plan, tmp_path, start_preloaded) as playing:
        playing.send()
        playing.workers = [playing.start(place) for place in range(plan.workers)]
        wait_until(lambda: playing.look() > TASKS / 2, "half of the tasks to be done", timeout_s=120)
        (log,) = playing.broker._place.data.glob("appendonlydir/*.incr.aof")
        playing.broker.kill()
        os.truncate(log, log.stat().st_size - LOST_BYTES)
        playing.broker.restart()
        before = dict(playing.results)
        playing.results.clear()
        assert playing.look() < len(before), "some results are gone with the end of the log"
        wait_until(lambda: playing.look() == TASKS, "every task to have its result again", timeout_s=120)
        assert wait_until(lambda: playing.outstanding() == 0, "nothing to be held any more")
