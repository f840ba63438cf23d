"""What Ray's actors run, without Ray: batches with columns for answers, provenance and errors."""

from __future__ import annotations

import json
from collections.abc import Generator
from typing import Any

import dspy
import pytest

from snakepit_bridge.exceptions import ConfigurationError, InputError, ProgramNotFoundError
from snakepit_bridge.ray import FleetProgram
from snakepit_bridge.ray import program as ray_program
from tests.harness.stage import LM_KEY, Stage, fresh, stage


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), worker=False) as play, pytest.MonkeyPatch.context() as patch:
        patch.setenv("STAGE_LM_KEY", LM_KEY)
        patch.setenv("STAGE_WRONG_KEY", "wrong")
        play.fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "warmth"})
        yield play


def build(play: Stage, program: str = "qa", **options: Any) -> FleetProgram:
    settings = {name: value for name, value in play.settings.items() if name.startswith("DSPEX_")}
    return FleetProgram(program, settings={**settings, "DSPEX_REDIS_URL": play.url}, **options)


async def test_a_batch_gets_columns_for_answers_and_what_produced_them(play: Stage) -> None:
    session, question = fresh("session"), fresh("question")
    variables = play.fleet.session(session).blocking
    pinned = variables.set_variables({"warmth": 0.25})
    variables.set_variables({"warmth": 0.75})
    program = build(play, "qa:1", session=session, exactly=pinned, inputs={"question": "text"})
    found = await program({"key": [1, 2], "text": [f"{question} 1", f"{question} 2"]})
    assert found["key"] == [1, 2]
    assert found["answer"] == [f"answer of {question} 1", f"answer of {question} 2"]
    assert found["token"] == [str(pinned)] * 2
    assert (found["version"], found["error"]) == ([1, 1], ["", ""])
    assert json.loads(found["provenance"][0])["variables"] == {"warmth": 0.25}
    assert {sent.body["temperature"] for sent in play.requests_with(question)} == {0.25}
    assert await program({"key": [], "text": []}) == {name: [] for name in found if name != "answer"}, (
        "an empty batch has no answers"
    )


async def test_a_row_fails_alone_or_fails_its_batch(play: Stage) -> None:
    found = await build(play, "missing", inputs={"question": "question"})({"question": ["?"]})
    assert found["error"][0].startswith("ProgramNotFoundError: ")
    assert found["provenance"] == [None]
    with pytest.raises(ProgramNotFoundError):
        await build(play, "missing", inputs={"question": "question"}, errors="raise")({"question": ["?"]})


async def test_what_does_not_fit_is_named(play: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="errors is 'column' or 'raise'"):
        FleetProgram("qa", errors="ignore")
    with pytest.raises(InputError, match="no column has this name; there are text"):
        await build(play)({"text": ["?"]})
    monkeypatch.setattr(ray_program.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigurationError, match="needs the fleet's code on each node"):
        FleetProgram("qa")
