"""A fleet with something to show on each page of the console: rollouts, evaluations, an optimization, predictions."""

from __future__ import annotations

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.handle import Handle
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.rollouts.records import POLICY_VARIABLE
from snakepit_bridge.testing import AskedQuestion
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import wait_until

METRIC = "tests.harness.metrics:exact"
POLICY = json.dumps({
    "stages": [{"share": 0.3, "min_s": 86_400, "min_predictions": 200}, {"share": 0.6}],
    "guards": [
        {"metric": "score", "name": "helpful", "max_decrease": 0.45},
        {"metric": "error_rate", "max_increase": 0.05},
        {"metric": "latency", "quantile": 0.95, "max_ratio": 1.5},
    ],
})  # fmt: skip
HELD = json.dumps({"stages": [{"share": 0.1, "min_s": 86_400}]})
QUESTIONS = [f"What is {number} times {number + 3}?" for number in range(2, 22)]
REFUSED = "Why is this refused?"


@dataclass(frozen=True)
class FilledFleet:
    """What is there to see.

    Attributes:
        play: the stage.
        answered: predictions that succeeded, the last one with its steps.
        failed: a prediction that failed.
        evaluations: the ids of the evaluations of qa:1 and qa:2.
        optimization: the id of the optimization's job.
    """

    play: Stage
    answered: tuple[str, ...]
    failed: str
    evaluations: tuple[str, str]
    optimization: str


def answer(ask: AskedQuestion) -> Mapping[str, Any]:
    """Answer as a program that reasons gets more products right."""
    question = next(iter(ask.inputs.values()), "")
    words = question.split()
    product = int(words[2]) * int(words[4].strip("?")) if question.startswith("What is ") else 42
    is_right = product % 3 == 0 or ("reasoning" in ask.output_names and product % 5)
    texts = {output.name: f"{output.name} of {question}" for output in ask.layout.outputs if output.annotation == "str"}
    return {**texts, "answer": str(product if is_right else product + 1)}


@contextmanager
def filled_fleet(folder: Path) -> Generator[FilledFleet]:
    """Set a stage with two workers, and fill it."""
    with stage(folder, answer=answer, DSPEX_ALLOWED_PACKAGES="tests", DSPEX_CAPTURE_LM_CALLS="true") as play:
        play.start(pool="prefork", concurrency=1, queues=("predictions.code",), name=fresh("code"))
        fleet = play.fleet
        fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "temp"})
        fleet.register("qa", dspy.ChainOfThought("question -> answer"), bindings={"temperature": "temp"})
        fleet.register("summarize", dspy.Predict("text -> summary"))
        run_blocking(fleet.registry.label("qa", "prod", 1, author="ann", reason="the first one"))
        fleet.session().blocking.set_variables({"temp": 0.0})
        fleet.recorders.set("qa")
        evaluations = _evaluate(fleet)
        optimization = _optimize(fleet)
        answered = tuple(handle.id for handle in _predict(fleet))
        failed = _fail(play)
        _roll_out(fleet)
        yield FilledFleet(play, answered, failed, evaluations, optimization)


def _evaluate(fleet: Fleet) -> tuple[str, str]:
    rows = [dspy.Example(question=question, answer=str(_product(question))) for question in QUESTIONS]
    fleet.datasets.add("golden", [row.with_inputs("question") for row in rows])
    found = fleet.evaluate("qa", "golden", METRIC, arms=["qa:1", "qa:2"])
    return found["qa:1"].record.id, found["qa:2"].record.id


def _optimize(fleet: Fleet) -> str:
    job = fleet.jobs.optimize(
        "qa:1", "golden", METRIC, optimizer="BootstrapFewShotWithRandomSearch", valset="golden",
        options={"max_bootstrapped_demos": 2, "max_labeled_demos": 2, "num_candidate_programs": 3},
        author="bob",
    )  # fmt: skip
    assert fleet.jobs.wait(job.id, 120).state == "succeeded"
    return job.id


def _predict(fleet: Fleet) -> list[Handle]:
    def is_recorded() -> bool:
        fleet.submit("qa", {"question": QUESTIONS[0]}).get()
        return fleet.recorders.list()[0].count.records > 0

    wait_until(is_recorded, "a prediction to be recorded")
    fleet.session("user-1").blocking.set_variables({"temp": 0.4, "style": "brief"})
    sent = [fleet.submit("qa", {"question": question}, session="user-1") for question in QUESTIONS]
    sent.append(fleet.submit("qa:2", {"question": QUESTIONS[1]}, session="user-1", trace=True))
    for handle in sent:
        handle.get()
    sent[-1].score("helpful", 0.25, comment="It guesses.", scorer="ann")
    return sent


def _fail(play: Stage) -> str:
    play.lm.fail(400, containing=REFUSED)
    handle = play.fleet.submit("qa", {"question": REFUSED}, session="user-1")
    wait_until(handle.ready, "the prediction to fail")
    return handle.id


def _roll_out(fleet: Fleet) -> None:
    context = fleet.session("helpdesk").blocking
    context.set_variables({"temp": 0.2, POLICY_VARIABLE: POLICY})
    fleet.rollouts.start("helpdesk", {"temp": 1.4}, author="ann", reason="livelier answers")
    fleet.rollouts.start("qa@prod", 2, policy=json.loads(HELD), author="bob", reason="it reasons")
    wait_until(lambda: fleet.rollouts.show("helpdesk").record.share > 0, "the first stage")
    for number in range(3):
        users = [f"user-{number}-{place}" for place in range(60)]
        handles = [fleet.submit("qa", {"question": QUESTIONS[0]}, session="helpdesk", key=user) for user in users]
        for place, handle in enumerate(handles):
            is_fine = handle.get().provenance.variables["temp"] < 1
            handle.score("helpful", place % 10 != 0 if is_fine else place % 2 == 0)


def _product(question: str) -> int:
    words = question.split()
    return int(words[2]) * int(words[4].strip("?"))
