"""Each example runs as a user runs it: as a process of its own, with no server, no key, from any folder."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from redis import Redis

from snakepit_bridge.snapshots import open_store
from snakepit_bridge.testing import AskedQuestion, RecordingLM
from snakepit_bridge.testing.lm.answers import Raw
from tests.harness.preloaded import run_preloaded
from tests.harness.waiting import PATIENCE_S

FOLDER = Path(__file__).parent.parent.parent / "examples"

SAYS: dict[str, list[str]] = {
    "basic_binding": [
        "Answer: 42",
        "Current temperature: 0.7",
        "Answer: 144",
        "Updated temperature: 0.9",
        "The model was asked at temperature 0.7, for at most 256 tokens",
        "The model was asked at temperature 0.9, for at most 256 tokens",
    ],
    "dynamic_selection": [
        "Available: .*COT.*ChainOfThought.*Predict.*ProgramOfThought.*ReAct.*",
        "ChainOfThought: created VariableAwareChainOfThought",
        "Answer: 42",
        "Requests: 1, at temperature 0.7",
        "ReAct: created VariableAwareReAct",
        "Answer: 42",
        "Requests: 3, at temperature 0.7",
        "predict: created VariableAwarePredict",
        "Answer: 42",
        "Requests: 1, at temperature 0.7",
        r"Refused: Unknown module type: ChainOfThougt\. Did you mean 'ChainOfThought'\?.*",
    ],
    "callbacks": [
        "temperature changed: 0.7 -> 0.5",
        r"Synced: \{'temperature': \(0.7, 0.5\)\}",
        "temperature changed: 0.5 -> 0.7",
        r"Synced: \{'temperature': \(0.5, 0.7\)\}",
        r"Synced: \{\}",
        "temperature changed: 0.7 -> 0.9",
        r"Synced: \{'temperature': \(0.7, 0.9\)\}",
        r"Temperature history: \[\(0.7, 0.5\), \(0.5, 0.7\), \(0.7, 0.9\)\]",
        r"The model was asked at: \[0.5, 0.7, 0.7, 0.9, None\]",
    ],
    "batch_configuration": [
        r"Question: What are the advantages of functional programming\?",
        "Summary: .+",
        "understand: model gpt-4, temperature 0.7",
        "reason: model demo, temperature 0.7, at most 256 tokens",
        "summarize: model demo, temperature 0.7",
        "reason is a VariableAwareChainOfThought",
        r"Question: What are the advantages of functional programming\?",
        "Summary: .+",
        "understand: model gpt-4o-mini, temperature 0.2",
        "reason: model demo, temperature 0.2, at most 64 tokens",
        "summarize: model demo, temperature 0.2",
    ],
}


def run(example: str, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run an example where nothing of a user's settings is in reach by accident; it is forked if it can be."""
    place = str(FOLDER / f"{example}.py")
    script = f"import runpy, sys; sys.path.insert(0, {str(FOLDER)!r}); runpy.run_path({place!r}, run_name='__main__')"
    command = [sys.executable, "-c", script, *arguments]
    return run_preloaded(command, cwd=folder, env=_environment(), timeout=PATIENCE_S)


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if "KEY" not in name and "DSPEX" not in name}


def assert_said(done: subprocess.CompletedProcess[str], lines: list[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    first, *printed = done.stdout.splitlines()
    assert first == "The language model is a deterministic stand-in, not a language model."
    assert len(printed) == len(lines), done.stdout
    for found, expected in zip(printed, lines, strict=True):
        assert re.fullmatch(expected, found), f"{found!r} isn't {expected!r}"


@pytest.mark.parametrize("example", SAYS)
def test_an_example_runs_with_nothing_around_it_and_says_what_happened(example: str, tmp_path: Path) -> None:
    command = [sys.executable, str(FOLDER / f"{example}.py")]
    done = subprocess.run(
        command, cwd=tmp_path, env=_environment(), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert_said(done, SAYS[example])


@pytest.mark.parametrize("example", SAYS)
def test_an_example_uses_the_given_redis_and_leaves_no_session_there(
    example: str, tmp_path: Path, redis_url: str
) -> None:
    with Redis.from_url(redis_url) as client:
        assert_said(run(example, tmp_path, "--redis-url", redis_url), SAYS[example])

        left = [key.decode() for key in client.scan_iter("*example-*")]
        assert left, "it has used another Redis"
        assert all(client.ttl(key) > 0 for key in left), left
    assert asyncio.run(open_store(redis_url).sessions()) == {}


def test_a_redis_that_is_away_is_one_named_error(tmp_path: Path) -> None:
    done = run("basic_binding", tmp_path, "--redis-url", "redis://127.0.0.1:1/0")

    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Redis at redis://127.0.0.1:1/0 is away: ")
    assert "Traceback" not in done.stderr


def test_an_optimizer_raises_the_metric_of_a_model_that_needs_demonstrations(tmp_path: Path) -> None:
    """The LM answers as small models do: in a form of its own, until it is shown how."""
    lines = (FOLDER / "reviews.jsonl").read_text(encoding="utf-8").splitlines()
    moods = {example["review"]: example["mood"] for example in map(json.loads, lines)}

    def answer(ask: AskedQuestion) -> object:
        return {"mood": moods[ask.inputs["review"]]} if len(ask.body["messages"]) > 2 else Raw("It is a review.")

    with RecordingLM(answer) as lm:  # pyright: ignore[reportArgumentType]
        done = run("raise_metric", tmp_path, "--lm-url", lm.url)
    assert done.returncode == 0, done.stderr
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in done.stdout.splitlines() if "│" in line]
    assert [row[2] for row in rows] == ["0 % of 24", "100 % of 24"], done.stdout
    assert [row[3] for row in rows] == ["24", "0"]


def test_every_example_is_tested() -> None:
    # tests/integration/test_console_pages.py runs the first of these, and looks at what it leaves.
    elsewhere = {"fill_console", "raise_metric"}
    assert {path.stem for path in FOLDER.glob("*.py") if not path.name.startswith("_")} == {*SAYS, *elsewhere}
