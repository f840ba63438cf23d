"""KNNFewShot as a module: it asks what DSPy's own asks, and what has no place in a spec is refused by name."""

from __future__ import annotations

from typing import Any

import dspy
import numpy as np
import pytest

from snakepit_bridge.dspy_integration.compat import find_knn_few_shot
from snakepit_bridge.dspy_integration.knn_few_shot import KNNFewShot, Vectorizer
from snakepit_bridge.exceptions import ConfigurationError, ProgramSpecError
from snakepit_bridge.lm.fleet_lm import FleetLM
from snakepit_bridge.programs.serialize import serialize_module
from snakepit_bridge.testing import RecordingLM
from tests.unit.programs import sample

TRAINSET = [
    dspy.Example(question=text, mood=mood, answer="Because.").with_inputs("question", "mood")
    for text in ("Why", "Where is it", "When was that then")
    for mood in ("calm", "angry and loud")
]


def compiled(**changes: Any) -> Any:
    options: dict[str, Any] = {
        "k": 2,
        "trainset": TRAINSET,
        "vectorizer": dspy.Embedder(sample.embed, caching=False),
        **changes,
    }
    return dspy.KNNFewShot(**options).compile(dspy.Predict("question, mood -> answer"))


@pytest.mark.parametrize("inputs", [{"question": "Who", "mood": "sad"}, {"mood": "sad", "question": "Who"}])
def test_it_asks_what_dspys_own_asks(inputs: dict[str, str]) -> None:
    own = compiled(max_labeled_demos=1, max_bootstrapped_demos=1)
    with RecordingLM() as lm, dspy.context(lm=dspy.LM("openai/x", api_base=lm.url, api_key="x", cache=False)):
        own(**inputs)
        expected = [request.body for request in lm.requests]
        lm.clear()
        KNNFewShot.adopt(own)(**inputs)
        assert [request.body for request in lm.requests] == expected


def test_a_call_changes_no_example() -> None:
    module = KNNFewShot.adopt(compiled())
    module.knn(question="Who", mood="sad")[0].answer = "changed"
    assert {example.answer for example in module.knn.trainset} == {"Because."}


def test_a_module_that_another_optimizer_compiled_stays_what_it_is() -> None:
    labeled = dspy.LabeledFewShot(k=1).compile(dspy.Predict("question, mood -> answer"), trainset=TRAINSET)
    assert find_knn_few_shot(labeled) is None
    assert KNNFewShot.adopt(labeled) is labeled


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"k": 7}, "k must be a whole number from 1 to 6, the examples of the train set; got 7"),
        ({"vectorizer": dspy.Embedder(lambda texts: sample.embed(texts), caching=False)}, "define it in a module"),  # noqa: PLW0108
        (
            {"vectorizer": dspy.Embedder(sample.embed, caching=False), "metric": lambda *_: True},
            "define it in a module",
        ),
        ({"teacher_settings": {"lm": dspy.LM("openai/x")}}, r"name its profile: FleetLM\('PROFILE'\)"),
        ({"teacher_settings": {"adapter": dspy.JSONAdapter()}}, "teacher_settings: adapter can't travel"),
    ],
)
def test_what_has_no_place_in_a_spec_is_refused_by_name(changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ProgramSpecError, match=problem):
        serialize_module(compiled(**changes), program="qa")


def test_a_teacher_on_an_lm_of_the_fleet_is_called_there() -> None:
    module = KNNFewShot.adopt(compiled(teacher_settings={"lm": FleetLM("large")}, max_errors=1))
    with (
        pytest.raises(ConfigurationError, match="FleetLM|stands for one of the fleet's"),
        dspy.context(lm=dspy.LM("x/y")),
    ):
        module(question="Who", mood="sad")


def test_vectors_that_do_not_fit_those_of_the_trainset_are_refused() -> None:
    module = KNNFewShot.adopt(compiled())
    module.knn.embedding = module.knn.embedding.connect(lambda texts: [[1.0, 2.0, 3.0]] * len(texts))
    with pytest.raises(ValueError, match=r"\(1, 3\) for 1 texts, and the train set's vectors need \(1, 2\)"):
        module(question="Who", mood="sad")
    with pytest.raises(ValueError, match="a vector for each of the 6 examples"):
        KNNFewShot(
            dspy.Predict("question, mood -> answer"), k=1, trainset=TRAINSET, vectors=np.ones((5, 2)),
            vectorizer=Vectorizer(sample.embed),
        )  # fmt: skip


def test_a_hosted_embedder_travels_by_the_name_of_its_model() -> None:
    embedder: Any = dspy.Embedder
    hosted = embedder("openai/small", api_base="http://127.0.0.1:9", api_key="sk-hunter2")
    assert Vectorizer.of(hosted).model == "openai/small"
    assert Vectorizer.of(Vectorizer(None, model="small"), 3) == Vectorizer(None, model="small", dimensions=3)
    with pytest.raises(ValueError, match="its user can't travel"):
        Vectorizer.of(embedder("openai/small", user="me"))
    with pytest.raises(ValueError, match="the embedder small is an LM profile of the fleet"):
        Vectorizer(None, model="small")(["text"])
