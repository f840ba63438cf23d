"""The last release's worker, client and refresher beside this one's, on one Redis, while workers are killed.

``PREVIOUS_WHEEL`` names the wheel of the last release; without it there is nothing to compare with.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import dspy
import pytest

from snakepit_bridge.exceptions import VariableNotFoundError
from snakepit_bridge.testing.elixir.server import BridgeServer
from tests.harness.installed_wheel import InstalledWheel, install_wheel
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import wait_until

WHEEL = os.environ.get("PREVIOUS_WHEEL")
PREDICTIONS, KILLS = 300, 6
SESSION = "followed"

pytestmark = pytest.mark.skipif(WHEEL is None, reason="PREVIOUS_WHEEL names no wheel of an earlier release")

# A client of the last release: it submits so many predictions with a key each, and prints their answers.
CLIENT = """
import json, sys
from snakepit_bridge.client import Fleet
url, session, token, prefix, count = sys.argv[1:]
fleet = Fleet(url, wait_s=120)
def submit(n):
    name = f"{prefix}-{n}"
    return fleet.submit("warm", {"question": name}, session=session, at_least=token, idempotency_key=name)
handles = [submit(n) for n in range(int(count))]
batch = fleet.submit_batch("warm", [{"question": f"{prefix}-b{n}"} for n in range(20)], session=session)
found = [handle.get() for handle in (*handles, *batch)]
print(json.dumps([[each.answer, each.provenance.worker, each.provenance.variables] for each in found]))
"""


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> InstalledWheel:
    assert WHEEL is not None
    return install_wheel(tmp_path_factory.mktemp("previous"), Path(WHEEL))


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    with stage(folder, worker=False, DSPEX_LEASE_S="1", DSPEX_MAX_DELIVERIES="50") as playing:
        playing.fleet.register("warm", dspy.Predict("question -> answer"), bindings={"temperature": "temperature"})
        playing.start(pool="asyncio", concurrency=20, name="this")
        yield playing


class Killer:
    """Kills workers of both releases in turn by -9, and starts them again."""

    def __init__(self, play: Stage, previous: InstalledWheel, folder: Path) -> None:
        self._play, self._previous, self._folder = play, previous, folder
        self._env = {**play.settings, "DSPEX_REDIS_URL": play.url}
        self.kills: Counter[str] = Counter()
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        command = self._previous.command("dspex-fleet", "worker", "--concurrency", "20", "--hostname", "previous@h")
        with (self._folder / "previous.log").open("ab") as log:
            return subprocess.Popen(
                command, cwd=self._folder, env=self._previous.environment(self._env), stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip

    def run(self, done: threading.Event) -> None:
        """Kill one of them every two to four seconds, until there were enough kills or all is done."""
        chance = random.Random(1)
        for number in range(KILLS):
            if done.wait(chance.uniform(2, 4)):
                return
            if number % 2:
                self._play.worker.container.kill()
                self._play.worker.container.restart()
            else:
                self._kill()
                self._process = self._start()
            self.kills["this" if number % 2 else "previous"] += 1

    def _kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self) -> None:
        """End the last release's worker."""
        self._kill()


def test_nothing_is_lost_between_two_releases(
    play: Stage, previous: InstalledWheel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with ExitStack() as running, BridgeServer() as elixir:
        elixir.begin(SESSION)
        elixir.register(SESSION, "temperature", "float", 0.5, min=0, max=2)
        refresher = ["refresher", "--bridge", elixir.address, "--session", SESSION]
        running.enter_context(
            previous.running("dspex-fleet", *refresher, cwd=tmp_path, env={"DSPEX_REDIS_URL": play.url})
        )
        session = play.fleet.session(SESSION).blocking
        wait_until(lambda: reads(session, 0.5), "the last release's refresher to publish", timeout_s=60)
        token = session.snapshot().token
        killer, done = Killer(play, previous, tmp_path), threading.Event()
        running.callback(killer.close)
        wait_until(lambda: b" ready." in (tmp_path / "previous.log").read_bytes(), "its worker", timeout_s=120)
        play.lm.delay(0.2)
        thread = threading.Thread(target=killer.run, args=(done,))
        thread.start()
        prefix = fresh("old")
        client = subprocess.Popen(
            [str(previous.python), "-c", CLIENT, play.url, SESSION, str(token), prefix, str(PREDICTIONS)],
            cwd=tmp_path, env=previous.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        handles = []
        for _ in range(PREDICTIONS):
            question = fresh("new")
            options: dict[str, Any] = {"session": SESSION, "at_least": token, "idempotency_key": question}
            handles.append((question, play.fleet.submit("warm", {"question": question}, **options)))
            time.sleep(0.02)
        answers = [(question, handle.get(120)) for question, handle in handles]
        output, problems = client.communicate(timeout=180)
        done.set()
        thread.join()
        assert client.returncode == 0, problems.decode()
        elixir.set(SESSION, "temperature", 0.9)
        wait_until(lambda: reads(session, 0.9), "the last release's refresher to go on")
    theirs: list[tuple[str, str, dict[str, Any]]] = json.loads(output)
    assert [answer.answer for _, answer in answers] == [f"answer of {question}" for question, _ in answers]
    expected = [f"answer of {prefix}-{n}" for n in range(PREDICTIONS)]
    assert [answer for answer, _, _ in theirs] == expected + [f"answer of {prefix}-b{n}" for n in range(20)]
    workers = Counter(name.partition("@")[0] for _, name, _ in theirs)
    workers += Counter(answer.provenance.worker.partition("@")[0] for _, answer in answers)
    assert min(workers["this"], workers["previous"]) > 0, workers
    assert {json.dumps(dict(values)) for _, _, values in theirs} == {'{"temperature": 0.5}'}
    with capsys.disabled():
        print(
            f"\nmixed versions, {previous.wheel.name}: {len(theirs) + len(answers)} predictions, 0 lost, "
            f"{dict(killer.kills)} kills, answered by {dict(workers)}"
        )


def reads(session: Any, temperature: float) -> bool:
    try:
        return session.get_variable("temperature") == temperature
    except VariableNotFoundError:
        return False
