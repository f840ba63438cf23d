"""Programs that aren't registered: they run under their digest, ask the LM the same, and show their steps."""

from __future__ import annotations

from collections.abc import Generator

import dspy
import pytest

from snakepit_bridge.exceptions import ProgramNotFoundError, ProgramSpecError
from tests.harness.programs import Twice
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("variants"), DSPEX_ALLOWED_PACKAGES="tests.harness") as playing:
        yield playing


def test_a_variant_asks_what_the_registered_program_asks_and_shows_its_steps(play: Stage) -> None:
    module, question = dspy.ChainOfThought("question -> answer"), fresh("q")
    module.predict.demos = [dspy.Example(question="6 times 7?", reasoning="multiply", answer="42")]
    registered = play.fleet.register("qa", module)
    reference = play.fleet.store_variant("qa", module)
    play.fleet.submit("qa", {"question": question}).get(PATIENCE_S)
    prediction = play.fleet.submit(reference, {"question": question}, trace=True).get(PATIENCE_S)
    first, second = play.requests_with(question)
    assert first.body == second.body
    assert (prediction.provenance.version, prediction.provenance.digest) == (0, registered.digest)
    [step] = prediction.trace
    assert (step.predictor, step.inputs) == ("predict", {"question": question})
    assert step.outputs == dict(prediction.items())
    assert step.usage


def test_each_input_of_a_batch_has_its_own_steps(play: Stage) -> None:
    reference = play.fleet.store_variant("twice", Twice())
    questions = [fresh("q") for _ in range(5)]
    handles = play.fleet.submit_batch(reference, [{"question": each} for each in questions], trace=True)
    for question, handle in zip(questions, handles, strict=True):
        first, second = handle.get(PATIENCE_S).trace
        assert first.inputs == {"question": question}
        assert second.inputs == {"question": first.outputs["answer"]}


def test_what_can_not_be_a_program_is_refused_before_anything_is_stored(play: Stage) -> None:
    with pytest.raises(ProgramSpecError, match="give an instance"):
        play.fleet.store_variant("qa", Twice)
    with pytest.raises(ProgramNotFoundError, match="qa#0000"):
        play.fleet.submit("qa#" + "0" * 64, {"question": "?"}).get(PATIENCE_S)
