"""The image: its recipe's steps are run, and what they leave runs as a read-only container of another user would."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

import dspy
import pytest

from snakepit_bridge.exceptions import PredictionFailedError
from snakepit_bridge.testing import AskedQuestion
from tests.harness.image_steps import ImageStage, built_image, cannot_run
from tests.harness.stage import LM_KEY, stage
from tests.harness.waiting import PATIENCE_S, wait_until

pytestmark = [
    pytest.mark.skipif(bool(cannot_run()), reason=cannot_run() or "it can run"),
    pytest.mark.timeout(1_200),
]

# What the LM answers with, by a word of the question.
CODE = {
    "sum": "import math\ntotal = sum(range(101))\nSUBMIT({'answer': str(total)})",
    "surroundings": """\
import os
from js import Deno, fetch
found = {"environment": dict(os.environ)}
try:
    found["files"] = Deno.readTextFileSync("/etc/passwd")
except Exception as exc:
    found["files"] = f"refused: {exc}"
try:
    found["network"] = str(await fetch("http://127.0.0.1:65530/"))
except Exception as exc:
    found["network"] = f"refused: {exc}"
SUBMIT({"answer": repr(found)})""",
    "memory": "blocks = [bytearray(2**20) for _ in range(400)]\nSUBMIT({'answer': 'fits'})",
    "endless": "while True: pass",
}


# What the processes of these tests load.
LOADED = ("dspy", *(f"dspex_fleet.{name}" for name in ("tasks.predict", "workers.gateway", "workers.lifecycle",
                                                       "workers.refresher", "workers.worker_command")))  # fmt: skip

RLM_CODE = "SUBMIT(answer=str(sum(range(101))))"


def coder(ask: AskedQuestion) -> dict[str, str]:
    """Answer with code for the question, and with what that printed for the answer."""
    text = " ".join(map(str, ask.inputs.values()))
    values = {
        "generated_code": next((code for word, code in CODE.items() if word in text), "SUBMIT({})"),
        "code": RLM_CODE,
        "finished": "True",
        "answer": str(ask.inputs.get("code_output", text)),
    }
    return {output.name: values.get(output.name, "thinking") for output in ask.layout.outputs}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Generator[ImageStage]:
    with built_image(tmp_path_factory.mktemp("image")) as built:
        built.compile_bytecode(*LOADED)
        built.make_read_only()
        yield built


def test_it_runs_as_another_user_who_can_change_nothing(image: ImageStage) -> None:
    assert image.user == "10001:10001"
    assert image.command == ["dspex-fleet", "worker"]
    tried = image.run(["/bin/sh", "-c", "id -u; touch /opt/fleet/x /srv/fleet/x; touch /tmp/x && echo tmp"])
    assert tried.stdout.split() == ["10001", "tmp"]
    assert tried.stderr.count("cannot touch") == 2
    checkout = image.run(["python", "-c", "import dspex_fleet, snakepit_bridge; print(dspex_fleet.__file__)"])
    assert checkout.stdout.startswith("/opt/fleet/"), checkout.stderr


@pytest.mark.parametrize("command", ["worker", "refresher", "gateway"])
def test_each_role_has_its_packages(image: ImageStage, command: str) -> None:
    helped = image.run(["dspex-fleet", command, "--help"], network=False)
    assert helped.returncode == 0, helped.stderr


@contextmanager
def code_worker(image: ImageStage, url: str, settings: dict[str, str]) -> Generator[None]:
    """Run the compose file's worker for code in the image."""
    env = {**image.environment, **settings, "DSPEX_REDIS_URL": url}
    command = [*image.enter(), "dspex-fleet", "worker", "--pool", "prefork", "-c", "1"]
    log = Path(settings["TEST_LOG"])
    with log.open("wb") as output:
        worker = subprocess.Popen(command, env=env, stdout=output, stderr=output, start_new_session=True)
    try:
        wait_until(lambda: b" ready." in log.read_bytes() or worker.poll() is not None, "the worker", timeout_s=180)
        assert worker.poll() is None, log.read_text()
        yield
    finally:
        os.killpg(worker.pid, 15)
        worker.wait(PATIENCE_S)


def test_code_that_an_lm_has_written_runs_in_the_sandbox_and_nowhere_else(image: ImageStage, tmp_path: Path) -> None:
    """ProgramOfThought, CodeAct and RLM on a worker of the image: read-only, another user, no cache to fill."""
    with stage(tmp_path, worker=False, answer=coder) as play:
        profiles = Path(play.settings["DSPEX_LM_PROFILES"]).read_text(encoding="utf-8")
        # The stage hides this machine's folders; /tmp alone is the container's to write.
        put = image.run(["/bin/sh", "-c", 'printf %s "$0" > /tmp/lm.toml', profiles])
        assert put.returncode == 0, put.stderr
        settings = {
            **play.settings, "DSPEX_LM_PROFILES": "/tmp/lm.toml", "TEST_LOG": str(tmp_path / "worker.log"),
            "DSPEX_SANDBOX_CPU_S": "7", "DSPEX_SANDBOX_MEMORY_MB": "128",
        }  # fmt: skip
        play.fleet.register("thought", dspy.ProgramOfThought("question -> answer", max_iters=1))
        play.fleet.register("act", dspy.CodeAct("question -> answer", tools=[], max_iters=1))
        play.fleet.register("recursive", dspy.RLM("question -> answer", max_iters=2))
        with code_worker(image, play.url, settings):
            assert "5050" in play.fleet.submit("recursive", {"question": "the sum"}).get(240).answer
            play.fleet.submit("act", {"question": "the sum of hundred"}).get(240)
            bodies = [json.dumps(request.body) for request in play.requests_with("the sum of hundred")]
            assert ["5050" in body for body in bodies] == [False, True], bodies
            for barred in ("memory", "endless"):
                with pytest.raises(PredictionFailedError):
                    play.fleet.submit("thought", {"question": barred}).get(240)
            # What it finds is its answer, so that it also shows that such a program runs.
            seen = play.fleet.submit("thought", {"question": "surroundings"}).get(240).answer
            assert LM_KEY not in seen
            assert play.url not in seen
            # Deno's own words for what it doesn't permit: a port that nobody listens on would be refused otherwise.
            assert [seen.count(f"Requires {right} access to") for right in ("read", "net")] == [1, 1], seen


def test_the_sandbox_needs_no_network(image: ImageStage) -> None:
    code = (
        "import json\nfrom snakepit_bridge.dspy_integration.sandbox import SANDBOX\n"
        "with SANDBOX() as run: print(json.dumps(str(run('print(6 * 7)'))))"
    )
    ran = image.run(["python", "-c", code], network=False)
    assert json.loads(ran.stdout.splitlines()[-1]).strip() == "42", ran.stderr
