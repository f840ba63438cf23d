"""The demo: it holds on a small file of questions, says so in its last line, and leaves nothing behind.

Where it isn't about the demo's own process, it runs in this one, and forks its workers from one that is loaded.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from typing import Any, Protocol

import httpx
import psutil
import pytest
from redis import Redis

from snakepit_bridge.elixir.client import BridgeClient
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.testing import AskedQuestion, BridgeServer, RecordingLM
from snakepit_bridge.testing.lm.answers import Raw
from tests.conftest import wait_until
from tests.harness.leaks import leaked_keys
from tests.harness.preloaded import PreloadedPopen, start_preloaded
from tests.harness.waiting import PATIENCE_S
from workers.dev.demo import run_demo
from workers.dev.stand_in_lm import QUESTIONS, demo_answerer

ROOT = Path(__file__).parents[2]
DONE_S = PATIENCE_S

RUN = """
import sys
from pathlib import Path
from workers.dev.demo import run_demo

questions, out, keep = sys.argv[1:]
sys.exit(run_demo(
    redis_url=None, lm=None, questions=Path(questions), out=Path(out), workers=2, keep=bool(keep),
))
"""


@pytest.fixture(scope="module")
def questions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twenty of the demo's own questions, of all three programs."""
    lines = QUESTIONS.read_text(encoding="utf-8").splitlines()
    assert len(lines) >= 100
    chosen = tmp_path_factory.mktemp("questions") / "questions.jsonl"
    chosen.write_text("\n".join(lines[:20]) + "\n", encoding="utf-8")
    assert {json.loads(line)["program"] for line in lines[:20]} == {"math", "classify", "extract"}
    return chosen


# Narrow and without colours, as in a log.
PLAIN = {"COLUMNS": "100", "NO_COLOR": "1", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}


def launch(questions: Path, out: Path, *, keep: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", RUN, str(questions), str(out), keep]
    env = {**os.environ, **PLAIN, "TMPDIR": str(out)}
    return PreloadedPopen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


@pytest.fixture
def out() -> Generator[Path]:
    # Short, since an embedded server's socket would lie below it.
    with tempfile.TemporaryDirectory(prefix="dspex-test-") as folder:
        yield Path(folder)


class Run(Protocol):
    """Runs the demo in this process, and returns what it printed once it has ended well."""

    def __call__(
        self, *, redis_url: str | None = None, lm: str | None = None, pool: str = "asyncio", bridge: str | None = None
    ) -> str: ...


@pytest.fixture
def run(questions: Path, out: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for module in ("workers.dev.demo.parts", "workers.dev.demo.elixir"):
        monkeypatch.setattr(f"{module}.Child", start_preloaded)
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)

    def run(**options: Any) -> str:
        given: dict[str, Any] = {"redis_url": None, "lm": None, **options}
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            code = run_demo(questions=questions, out=out, workers=2, **given)
        assert code == 0, printed.getvalue()
        return printed.getvalue()

    return run


def test_the_demo_holds_and_its_last_line_says_so(run: Run, questions: Path, out: Path) -> None:
    output = run()
    lines = output.splitlines()
    assert lines[-1] == "demo: 20 predictions, 5 revisions, 0 lost, 0 torn, 0 stale"
    assert "\x1b" not in output, "without a terminal it prints plain lines"
    assert any("stand-in" in line for line in lines if line.startswith("LM: ")), "it must say what the LM is"
    assert any("stub" in line for line in lines if line.startswith("Elixir: ")), "it must say what the Elixir side is"
    for number in range(1, 6):
        assert any(line.startswith(f"revision {number} published: ") for line in lines)
    assert re.search(r"^answers: (.*)$", output, re.MULTILINE)[1] == str(out / "answers.jsonl")

    answers = [json.loads(line) for line in (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
    questions_of_file = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()]
    assert [answer["id"] for answer in answers] == [question["id"] for question in questions_of_file]
    for answer, question in zip(answers, questions_of_file, strict=True):
        assert answer["inputs"] == question["inputs"]
        assert answer["outputs"].items() >= question["expected"].items(), "the stand-in knows these by heart"
        assert answer["provenance"]["program"] == question["program"]
        assert answer["provenance"]["variables"].keys() >= {"llm_temperature", "house_style"}


async def lives(address: str, session: str) -> bool:
    client = BridgeClient(address)
    try:
        return await client.heartbeat(session)
    finally:
        await client.aclose()


def test_it_runs_on_prefork_with_a_redis_and_an_elixir_server_that_others_use(
    run: Run, out: Path, redis_url: str
) -> None:
    with Redis.from_url(redis_url) as client, BridgeServer() as elixir:
        client.set("somebodys", "value", ex=600)
        output = run(redis_url=redis_url, pool="prefork", bridge=elixir.address)
        assert f"Elixir: the server at {elixir.address}" in output.splitlines()
        assert output.endswith("demo: 20 predictions, 5 revisions, 0 lost, 0 torn, 0 stale\n")
        answers = [json.loads(line) for line in (out / "answers.jsonl").read_text(encoding="utf-8").splitlines()]
        session = answers[0]["provenance"]["session"]
        assert session.startswith("dspex-demo-"), "a session of its own"
        assert not run_blocking(lives(elixir.address, session))
        assert client.get("somebodys") == b"value"
        assert leaked_keys(client) == []
        # Celery's results and its broadcast bindings expire, or are listed as permanent.
        keys: Any = client.keys("*dspex-demo*")
        assert [key for key in keys if b"binding" not in key] == []


def test_a_ctrl_c_leaves_no_process_and_no_folder_behind(questions: Path, out: Path) -> None:
    with launch(questions, out) as demo:
        family = psutil.Process(demo.pid)
        assert demo.stdout is not None
        seen = ""
        while "revision 1 published" not in seen:
            line = demo.stdout.readline()
            assert line, f"the demo ended early: {seen}"
            seen += line
        children = family.children(recursive=True)
        assert len(children) >= 6, (
            "a server, the stand-in LM, Elixir's twin, a refresher and two workers, each with its watchdog"
        )
        demo.send_signal(signal.SIGINT)
        _, complaints = demo.communicate(timeout=DONE_S)
    assert demo.returncode != 0
    wait_until(lambda: not [child for child in children if child.is_running()], "all its processes to end")
    assert list(out.iterdir()) == [], complaints


REAL = """
[profiles.real]
model = "openai/small"
api_base = "{url}"
api_key_env = "DEMO_TEST_KEY"
"""


def test_a_kept_demo_shows_its_fleet_in_a_browser_until_ctrl_c(questions: Path, out: Path) -> None:
    with launch(questions, out, keep="yes") as demo:
        assert demo.stdout is not None
        lines = [*iter(demo.stdout.readline, "the fleet stays up until Ctrl-C\n")]
        assert "demo: 20 predictions, 5 revisions, 0 lost, 0 torn, 0 stale\n" in lines
        command = demo.stdout.readline().strip()
        filling = (
            rf"fill the console: .*python\S* {ROOT}/examples/fill_console.py --redis-url \S+ --namespace \S+ --lm demo"
        )
        assert re.fullmatch(filling, command), command
        link, _, token = demo.stdout.readline().removeprefix("The console: ").strip().partition("#token=")
        assert httpx.get(link).status_code == 200
        api = httpx.Client(base_url=link.removesuffix("/sign-in"), headers={"Authorization": f"Bearer {token}"})
        assert [process["node"].partition("@")[0] for process in api.get("/v1/status").json()["processes"]] != []
        family = psutil.Process(demo.pid).children(recursive=True)
        demo.send_signal(signal.SIGINT)
        _, complaints = demo.communicate(timeout=DONE_S)
    assert (demo.returncode, "Traceback" in complaints) == (0, False), complaints
    _, alive = psutil.wait_procs(family, timeout=PATIENCE_S)
    assert not alive


@pytest.fixture
def profiles(out: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DEMO_TEST_KEY", "none-needed")
    monkeypatch.setenv("DSPEX_LM_PROFILES", str(out / "profiles.toml"))
    return out / "profiles.toml"


def test_on_a_slow_model_it_finishes_and_tells_failed_from_lost(run: Run, questions: Path, profiles: Path) -> None:
    """An LM that takes its time, and of which some answers can't be parsed, is no fault of the fleet."""
    known = demo_answerer()
    poems = [json.loads(line) for line in questions.read_text(encoding="utf-8").splitlines()][5:8]
    hard = [text for poem in poems for text in poem["inputs"].values()]

    def answer(ask: AskedQuestion) -> object:
        return Raw("Roses are red.") if any(text in ask.user for text in hard) else known(ask)

    with RecordingLM(answer, latency_s=2.0) as lm:  # pyright: ignore[reportArgumentType]
        profiles.write_text(REAL.format(url=lm.url), encoding="utf-8")
        output = run(lm="real")
    lines = output.splitlines()
    assert lines[-1] == "demo: 17 predictions, 5 revisions, 3 failed, 0 lost, unseen torn, 0 stale"
    assert any(re.fullmatch(r"it answered after [2-9]\.\d s: 20 questions, \d+ at a time, each within \d+ s", line)
               for line in lines), "the pace follows from the first answer"  # fmt: skip
    assert any(line.startswith("3 failed, LMAnswerError, such as ") for line in lines)
    assert any(line.startswith("right: 17 of 17 answers (classify ") for line in lines)
    assert "0.7" in output
    assert "right" in output


def test_an_lm_that_does_not_answer_is_named_before_anything_is_asked(run: Run, out: Path, profiles: Path) -> None:
    """One LM check first."""
    with RecordingLM(api_key="another") as lm:
        profiles.write_text(REAL.format(url=lm.url), encoding="utf-8")
        with pytest.raises(BridgeError, match="The LM real did not answer the first question: LMRefusedError"):
            run(lm="real")
        assert len(lm.requests) == 1, "nothing more is asked"
    assert not (out / "answers.jsonl").exists()
