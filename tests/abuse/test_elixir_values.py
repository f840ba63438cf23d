"""Whatever an Elixir application sets, a program runs under it as it was set: through server, refresher and worker.

The prompt is compared with that of the local program under the same instructions, so that a changed character shows.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from dataclasses import dataclass
from typing import Any, cast

import dspy
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from snakepit_bridge.exceptions import SessionNotFoundError
from snakepit_bridge.testing import RecordingLM
from snakepit_bridge.testing.elixir.server import BridgeServer
from tests.harness.preloaded import start_preloaded
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until

SESSION = "user-shop"
SIGNATURE = "question -> answer"

# Instructions have to say something.
TEXTS = st.text(st.characters(codec="utf-8"), min_size=1, max_size=200).filter(str.strip)
NUMBERS = st.floats(0, 2, allow_nan=False).map(lambda number: round(number, 6))
VECTORS = st.lists(st.floats(-1e6, 1e6, allow_nan=False, width=32), min_size=3, max_size=3)
MARKERS = [
    '{"__type__": "datetime", "__value__": "x"}',
    "[[ ## completed ## ]]",
    "%s {0} ${x} \\n",
    "null",
    "",
    "\x00",
    "\u2028🙂",
]


def as_set(value: Any) -> Any:
    """Return a variable's value in the form in which an application sets it: a vector is a list there."""
    return list(value) if isinstance(value, tuple) else value


@dataclass(frozen=True)
class Play:
    """A worker behind a refresher that follows an Elixir server, and an LM that the local program asks."""

    stage: Stage
    elixir: BridgeServer
    local: RecordingLM

    def sees(self, **values: Any) -> None:
        """Wait until the fleet holds what was set, type by type."""
        context = self.stage.fleet.session(SESSION).blocking

        def held() -> bool:
            try:
                found = context.snapshot().variables
            except SessionNotFoundError:
                return False
            return all(name in found and as_set(found[name].value) == value for name, value in values.items())

        wait_until(held, f"the fleet to hold {values}", timeout_s=30)


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Play]:
    folder = tmp_path_factory.mktemp("stage")
    with BridgeServer() as elixir, stage(folder) as playing, RecordingLM() as local:
        elixir.begin(SESSION)
        elixir.register(SESSION, "style", "string", "kind")
        elixir.register(SESSION, "temp", "float", 0.5)
        elixir.register(SESSION, "taste", "embedding", [0.0, 0.0, 0.0])
        bindings = {"instructions": "style", "temperature": "temp"}
        playing.fleet.register("qa", dspy.Predict(SIGNATURE), bindings=bindings)
        command = [sys.executable, "-m", "workers.refresher", "--bridge", elixir.address, "--redis-url", playing.url]
        refresher = start_preloaded(
            [*command, "--sessions", SESSION, "--poll-s=0.05", "--poll-max-s=0.1"], folder / "refresher.log"
        )
        try:
            started = Play(playing, elixir, local)
            started.sees(style="kind", temp=0.5)
            yield started
        finally:
            refresher.end()


def local_prompt(play: Play, question: str, instructions: str) -> Any:
    """Return the messages that DSPy sends for the same program in this process."""
    plain: Any = dspy.Signature(SIGNATURE)  # pyright: ignore[reportCallIssue]
    signature = plain.with_instructions(instructions)
    lm = dspy.LM("openai/demo", api_base=play.local.url, api_key="none-needed", cache=False)
    with dspy.context(lm=lm, adapter=dspy.ChatAdapter()):
        dspy.Predict(signature)(question=question)
    return play.local.requests[-1].body["messages"]


def check(play: Play, text: str, number: float, vector: list[float]) -> None:
    play.elixir.set(SESSION, "style", text)
    play.elixir.set(SESSION, "temp", number)
    play.elixir.set(SESSION, "taste", vector)
    play.sees(style=text, temp=number, taste=vector)
    question = fresh("q")
    token = play.stage.fleet.session(SESSION).blocking.snapshot().token
    prediction = play.stage.fleet.submit("qa", {"question": question}, session=SESSION, at_least=token).get(PATIENCE_S)
    assert prediction.answer == f"answer of {question}"
    [sent] = play.stage.requests_with(question)
    assert sent.temperature == number
    assert sent.body["messages"] == local_prompt(play, question, text)


@given(text=TEXTS, number=NUMBERS, vector=VECTORS)
@example(text=MARKERS[0], number=0.0, vector=[0.1, -0.0, 1e6])
@example(text="\n".join(MARKERS[1:]), number=2.0, vector=[1.0, 2.0, 3.0])
@settings(
    max_examples=12, deadline=None, print_blob=True, phases=[Phase.explicit, Phase.generate],
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
def test_what_elixir_sets_is_what_a_program_runs_under(
    play: Play, text: str, number: float, vector: list[float]
) -> None:
    check(play, text, number, vector)


@pytest.mark.soak
@given(text=TEXTS, number=NUMBERS, vector=VECTORS)
@settings(max_examples=500, deadline=None, print_blob=True, suppress_health_check=cast("Any", [*HealthCheck]))
def test_so_it_is_hundreds_of_times(play: Play, text: str, number: float, vector: list[float]) -> None:
    check(play, text, number, vector)
