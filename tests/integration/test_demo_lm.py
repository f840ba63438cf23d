"""The demo's LM as its own process: it announces itself, answers the demo's questions, keeps a log, stops cleanly."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Generator
from pathlib import Path
from typing import Any, Literal

import dspy
import httpx
import pytest

from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.testing import STAND_IN, RecordingLM, read_ask
from tests.harness.waiting import PATIENCE_S
from workers.dev.stand_in_lm import QUESTIONS, demo_answerer

ROOT = Path(__file__).parents[2]
LINES = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]


class Classify(dspy.Signature):
    """Tell the mood of a customer's message."""

    text: str = dspy.InputField()
    label: Literal["positive", "negative", "neutral"] = dspy.OutputField()


PROGRAMS: dict[str, Any] = {
    "math": dspy.Signature("question -> answer: float"),  # pyright: ignore[reportCallIssue]
    "classify": Classify,
    "extract": dspy.Signature("text -> company: str, amount: float, date: str"),  # pyright: ignore[reportCallIssue]
}


@pytest.fixture(autouse=True)
def no_metadata_download(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "true")


def launch(*arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "workers.dev.stand_in_lm", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def process(tmp_path: Path) -> Generator[subprocess.Popen[str]]:
    key = tmp_path / "key"
    key.write_text("sesame\n")
    process = launch("--port", "0", "--log", str(tmp_path / "log.jsonl"), "--api-key-file", str(key))
    with process:
        yield process
        process.kill()


def announced(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


def lm(url: str, key: str = "sesame") -> dspy.LM:
    return dspy.LM("openai/demo", api_base=url, api_key=key, cache=False, num_retries=0)


@pytest.mark.parametrize("stop", [signal.SIGTERM, signal.SIGINT])
def test_the_process_answers_logs_and_stops_cleanly(
    process: subprocess.Popen[str], tmp_path: Path, stop: signal.Signals
) -> None:
    ready = announced(process)
    assert ready["url"] == f"http://127.0.0.1:{ready['port']}/v1"
    with dspy.context(lm=lm(ready["url"])):
        prediction = dspy.ChainOfThought(PROGRAMS["math"])(question=LINES[0]["inputs"]["question"])
    assert prediction.answer == LINES[0]["expected"]["answer"]
    assert STAND_IN in prediction.reasoning
    recorded = httpx.get(f"http://127.0.0.1:{ready['port']}/requests").json()
    process.send_signal(stop)
    assert process.wait(PATIENCE_S) == 0
    assert process.stderr is not None
    assert process.stderr.read() == ""
    assert [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()] == recorded
    with pytest.raises(httpx.ConnectError):
        httpx.get(ready["url"])


def test_the_process_says_in_one_line_why_it_can_not_start(tmp_path: Path) -> None:
    with RecordingLM() as other_server, launch("--port", str(other_server.port)) as process:
        assert process.wait(PATIENCE_S) == 1
        assert process.stderr is not None
        assert "can't listen on" in process.stderr.read()
    with launch("--questions", str(tmp_path / "none.jsonl")) as process:
        assert process.wait(PATIENCE_S) == 1
        assert process.stderr is not None
        assert len(process.stderr.read().splitlines()) == 1


def test_there_are_enough_questions_and_no_two_alike() -> None:
    assert all(count >= 40 for count in Counter(line["program"] for line in LINES).values())
    assert len(LINES) >= 120
    assert len({line["id"] for line in LINES}) == len(LINES)
    assert len({json.dumps(line["inputs"]) for line in LINES}) == len(LINES)
    assert {line["program"] for line in LINES} == PROGRAMS.keys()


@pytest.mark.parametrize("program", PROGRAMS)
@pytest.mark.parametrize("module", [dspy.Predict, dspy.ChainOfThought])
async def test_every_question_is_answered_as_expected(program: str, module: type[dspy.Module]) -> None:
    lines = [line for line in LINES if line["program"] == program]
    with RecordingLM(demo_answerer()) as server, dspy.context(lm=lm(server.url)):
        ask = module(PROGRAMS[program])
        answers = [await ask.acall(**line["inputs"]) for line in lines]
    answered = [{name: answer[name] for name in line["expected"]} for answer, line in zip(answers, lines, strict=True)]
    assert answered == [line["expected"] for line in lines]


def test_unknown_texts_are_answered_by_rule_and_in_type() -> None:
    with RecordingLM(demo_answerer()) as server, dspy.context(lm=lm(server.url)):
        assert dspy.Predict(PROGRAMS["math"])(question="What is 1,200 / 8?").answer == 150
        assert isinstance(dspy.Predict(PROGRAMS["math"])(question="What is 1 / 0?").answer, float)
        assert dspy.Predict(Classify)(text="A great tool, I love it").label == "positive"
        assert dspy.Predict(Classify)(text="It arrived broken").label == "negative"
        found = dspy.Predict(PROGRAMS["extract"])(text="We paid 12.50 euros to Fern Street Bakery on May 4, 2024.")
        assert (found.company, found.amount, found.date) == ("Fern Street Bakery", 12.5, "2024-05-04")
        assert isinstance(dspy.Predict("topic -> parts: list[str]")(topic="tea").parts, list)


def test_a_question_file_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    path = tmp_path / "questions.jsonl"
    for content in ("not json", '{"id": 1}', "[]"):
        path.write_text(content)
        with pytest.raises(ConfigurationError, match=r"questions\.jsonl"):
            demo_answerer(path)


def test_an_agent_that_asks_a_known_question_ends_with_its_answer() -> None:
    def look_up(query: str) -> str:
        """Looks something up."""
        return "nothing"

    with RecordingLM(demo_answerer()) as server, dspy.context(lm=lm(server.url)):
        prediction = dspy.ReAct(PROGRAMS["math"], tools=[look_up])(question=LINES[0]["inputs"]["question"])
    assert prediction.answer == LINES[0]["expected"]["answer"]
    assert prediction.trajectory["tool_name_0"] == "look_up"
    assert read_ask(server.requests[0].body).inputs["trajectory"] == ""
