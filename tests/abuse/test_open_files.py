"""Workers that may open few files: they take what their limit leaves, and nobody loses a result by it."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import dspy
import psutil
import pytest
from redis import Redis

from snakepit_bridge.cli import main
from snakepit_bridge.client import Handle
from snakepit_bridge.process.home_loop import run_blocking
from tests.harness.containers import limited
from tests.harness.hoarding import Hoarding
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until

BATCH = 1_000
# Below what Redis, the broker and LMs would take with so many predictions, by far.
LOW = 256
WAIT_S = PATIENCE_S


@pytest.fixture
def play(tmp_path: Path) -> Generator[Stage]:
    with stage(tmp_path, worker=False) as play:
        play.fleet.register("plain", dspy.Predict("question -> answer"))
        play.fleet.register("other", dspy.Predict("question -> answer"), lm="demo/openai/other")
        yield play


def batch(play: Stage, program: str = "plain", count: int = BATCH, **options: Any) -> list[Handle]:
    mark = fresh("q")
    return play.fleet.submit_batch(program, [{"question": f"{mark} {number}"} for number in range(count)], **options)


def ends_of(handles: Iterable[Handle]) -> Counter[str]:
    async def end(handle: Handle) -> str:
        try:
            return type(await asyncio.wait_for(asyncio.ensure_future(_result(handle)), WAIT_S)).__name__
        except Exception as exc:  # noqa: BLE001 (counted by its name)
            return f"{type(exc).__name__}: {exc}"

    async def all_ends() -> list[str]:
        return await asyncio.gather(*(end(handle) for handle in handles))

    return Counter(run_blocking(all_ends()))


async def _result(handle: Handle) -> Any:
    return await handle


def most_open(pid: int) -> int:
    return psutil.Process(pid).num_fds()


@pytest.mark.parametrize("count", [100, pytest.param(BATCH, marks=pytest.mark.soak)])
def test_a_soft_limit_is_raised_to_the_hard_one(play: Stage, count: int) -> None:
    worker = play.start(pool="asyncio", concurrency=1_000, open_files=(64, 8_192))
    assert psutil.Process(worker.container.pid).rlimit(psutil.RLIMIT_NOFILE) == (8_192, 8_192)
    play.lm.delay(1.0)
    assert ends_of(batch(play, count=count)) == {"FleetPrediction": count}
    assert "Too many open files" not in worker.logs()


@pytest.mark.parametrize("pool", ["asyncio", pytest.param("threads", marks=pytest.mark.soak)])
def test_under_a_low_hard_limit_each_input_ends_with_its_result(play: Stage, pool: str) -> None:
    worker = play.start(pool=pool, concurrency=64, open_files=(LOW, LOW))
    play.lm.delay(0.1)
    assert ends_of(batch(play)) == {"FleetPrediction": BATCH}
    assert "Too many open files" not in worker.logs()
    assert ends_of([play.fleet.submit("plain", {"question": fresh("after")})]) == {"FleetPrediction": 1}


@pytest.mark.parametrize(
    "cut", [pytest.param(False, id="connected"), pytest.param(True, id="cut off", marks=pytest.mark.soak)]
)
def test_where_none_is_left_work_waits_and_doctor_says_so(
    play: Stage, capsys: pytest.CaptureFixture[str], cut: bool
) -> None:
    """Somebody in the process takes all that there are, for seconds: an outage that ends by itself.

    Where its connections to Redis are cut meanwhile, it can open no new ones either.
    """
    worker = play.start(pool="asyncio", concurrency=500, open_files=(LOW, LOW), env={"DSPEX_ALLOWED_PACKAGES": "tests"})
    play.fleet._allowed = ("tests",)
    play.fleet.register("hoarding", Hoarding())
    play.lm.delay(0.2)
    hoarding = play.fleet.submit("hoarding", {"question": "2"})
    wait_until(lambda: most_open(worker.container.pid) >= LOW - 5, "all files to be taken")
    singles = [play.fleet.submit("plain", {"question": fresh("q")}) for _ in range(50)]
    if cut:
        with Redis.from_url(play.url) as client:
            for kind in ("normal", "pubsub"):
                client.client_kill_filter(_type=kind, skipme=True)
    found = ends_of([hoarding, *singles, *batch(play, count=100)])
    assert found == {"FleetPrediction": 151}, found
    assert "No open file is left" in worker.logs()

    def doctor() -> tuple[int, list[dict[str, Any]]] | None:
        """Its exit code and what it says of open files; a busy worker may not answer it at once."""
        with pytest.raises(SystemExit) as ended:
            main(["doctor", "--redis-url", play.url, "--json"])
        checks = [check for check in json.loads(capsys.readouterr().out) if check["what"] == "open files"]
        return (int(ended.value.code or 0), checks) if checks else None

    code, [check_of_files] = wait_until(doctor, "the worker to tell doctor of its files")
    assert (code, check_of_files["level"], "the limit was reached" in check_of_files["found"]) == (1, "fail", True)


@pytest.mark.parametrize(
    "arguments",
    [["gateway", "--grpc", "127.0.0.1:0", "--http", "127.0.0.1:0"], ["refresher", "--bridge", "127.0.0.1:9"]],
    ids=lambda arguments: arguments[0],
)
def test_other_processes_raise_their_limit_too(redis_url: str, arguments: list[str]) -> None:
    command = [sys.executable, "-m", "snakepit_bridge.cli", "--redis-url", redis_url, *arguments]
    process = subprocess.Popen([*limited(64, 4_096), *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        limits = psutil.Process(process.pid)
        wait_until(lambda: limits.rlimit(psutil.RLIMIT_NOFILE) == (4_096, 4_096), "its limit to be raised")
    finally:
        process.kill()
        process.communicate()
