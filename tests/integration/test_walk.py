"""The way of one warm prediction, from ``Fleet.submit`` to the LM request and back: how many of our files it enters."""

from __future__ import annotations

import json
import sys
from collections.abc import Generator
from typing import Any

import dspy
import pytest

from tests.harness.containers import ROOT
from tests.harness.preloaded import run_preloaded
from tests.harness.stage import Stage, stage
from tests.harness.waiting import PATIENCE_S
from tests.harness.walk import files_of_each

# A reader of one prediction has as many files to open. A file that would be the next one has to be worth it.
# It is about 98. On a busy one a message may be settled after the next prediction has begun, and the file
# that settles it then doesn't count.
MAX_FILES = 100
PREDICTIONS = 25


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), worker=False) as play:
        play.start(app="tests.harness.walk_app", pool="asyncio", concurrency=4)
        play.fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "temp"})
        play.fleet.session("walk").blocking.set_variables({"temp": 0.3})
        yield play


def test_a_warm_prediction_enters_a_bounded_number_of_files(play: Stage) -> None:
    command = [sys.executable, "-m", "tests.harness.walk", play.url, str(PREDICTIONS)]
    done = run_preloaded(command, cwd=ROOT, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    client: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    [reply] = play.fleet.app.control.broadcast(
        "entered_files", arguments={"starts": client["starts"]}, reply=True, timeout=PATIENCE_S, limit=1
    )
    [worker] = reply.values()
    assert len(play.requests_with("walk ")) == PREDICTIONS + 2
    assert {"snakepit_bridge/client/prediction_client.py", "snakepit_bridge/client/results.py"} <= set(client["files"])
    assert {"tasks/prediction.py", "snakepit_bridge/lm/transport.py", "workers/result_backend.py"} <= set(worker)
    files = sorted({*client["files"], *worker})
    assert len(files) <= MAX_FILES, "\n".join([f"{len(files)} files:", *files])


def test_what_happens_now_and_then_is_no_part_of_the_way() -> None:
    each = [(float(second), str(ROOT / "tasks/predict.py")) for second in range(4)]
    once = [(1.5, str(ROOT / "workers/watchdog/beats.py"))]
    assert files_of_each([*each, *once], [0.0, 1.0, 2.0, 3.0]) == ["tasks/predict.py"]
