"""Evaluations on real workers: the same prompts and scores as ``dspy.Evaluate``, and nothing is paid twice."""

from __future__ import annotations

import json
import math
import signal
import sys
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.evaluate import SemanticF1, answer_exact_match

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.release_gates import ReleaseGates
from snakepit_bridge.evaluations.metric import MetricSpec
from snakepit_bridge.exceptions import (
    DatasetError,
    DatasetNotFoundError,
    EvaluationError,
    EvaluationNotFoundError,
    GateError,
    GateFailedError,
    MetricError,
    ProgramNotFoundError,
)
from tests.harness.metrics import closeness, exact, explained, not_a_number, raising, text
from tests.harness.preloaded import PreloadedPopen
from tests.harness.programs import Twice, double, reward
from tests.harness.stage import LM_KEY, Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[2]
METRICS = "tests.harness.metrics"
QUICK_LEASE: dict[str, Any] = {"DSPEX_LEASE_S": "1"}


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), DSPEX_ALLOWED_PACKAGES="tests", **QUICK_LEASE) as play:
        fleet = Fleet(play.url, wait_s=60, allowed_packages=["tests"])
        play = Stage(play.url, fleet, play.lm, play.settings, play.app, play.workers, play._running)
        fleet.register("qa", dspy.Predict("question -> answer"))
        fleet.register("warm", dspy.Predict("question -> answer"), bindings={"temperature": "warmth"})
        yield play


@pytest.fixture(autouse=True)
def undisturbed(play: Stage) -> Generator[None]:
    yield
    play.lm.faults.clear()


class AnswerQuestion(dspy.Signature):
    """Answer the question."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


class Answer42(dspy.Signature):
    """Answer 42."""

    question: str = dspy.InputField()
    answer: str = dspy.OutputField()


def examples(count: int, *, right: Callable[[int], bool] = lambda number: number % 2 == 0) -> list[dspy.Example]:
    """Return questions of which the echoing LM answers some as expected."""
    name = fresh("q")
    built: list[dspy.Example] = []
    for number in range(count):
        question = f"{name}-{number}."
        answer = f"answer of {question}" if right(number) else "42"
        built.append(dspy.Example(question=question, answer=answer).with_inputs("question"))
    return built


def prompts(requests: Sequence[Any]) -> list[str]:
    return sorted(json.dumps(request.body["messages"], sort_keys=True) for request in requests)


def evaluate_locally(play: Stage, program: Any, devset: list[dspy.Example], metric: Any) -> tuple[Any, list[str]]:
    """Return DSPy's own result, and what the LM was asked."""
    first = len(play.lm.requests)
    lm = dspy.LM("openai/demo", api_base=play.lm.url, api_key=LM_KEY, cache=False)
    with dspy.context(lm=lm):
        found = dspy.Evaluate(devset=devset, metric=metric, num_threads=4)(program)
    return found, prompts(play.lm.requests[first:])


PROGRAMS: dict[str, Callable[[], Any]] = {
    "predict": lambda: dspy.Predict("question -> answer"),
    "chain": lambda: dspy.ChainOfThought("question -> answer"),
    "react": lambda: dspy.ReAct(AnswerQuestion, tools=[double], max_iters=2),
    "composite": Twice,
    "compiled": lambda: dspy.LabeledFewShot(k=2).compile(dspy.Predict("question -> answer"), trainset=examples(2)),
    "best_of": lambda: dspy.BestOfN(dspy.Predict("question -> answer"), N=2, reward_fn=reward, threshold=1.0),
    "several": lambda: dspy.Predict("question -> answer", n=2),
}


@pytest.mark.parametrize("kind", PROGRAMS)
def test_prompts_and_scores_are_those_of_dspy_evaluate(play: Stage, kind: str) -> None:
    program, devset, name = PROGRAMS[kind](), examples(6), fresh(kind)
    play.fleet.register(name, program)
    local, asked_locally = evaluate_locally(play, program, devset, exact)
    by_workers, by_client = _evaluate(play, name, devset, f"{METRICS}:exact"), _evaluate(play, name, devset, exact)
    for found, asked_here in (by_workers, by_client):
        assert asked_here == asked_locally
        assert found.score == local.score
        assert [score for *_, score in found.results] == [score for *_, score in local.results]
        assert [dict(prediction.items()) for _, prediction, _ in found.results] == [
            dict(prediction.items()) for _, prediction, _ in local.results
        ]
        assert [example for example, *_ in found.results] == devset


def test_a_program_without_inputs_is_evaluated_as_by_dspy_and_one_with_inputs_is_not(play: Stage) -> None:
    program, name = dspy.Predict("-> answer"), fresh("joke")
    play.fleet.register(name, program)
    first, _ = evaluate_locally(play, program, [dspy.Example(answer="42").with_inputs()], exact)
    answers = (first.results[0][1].answer, "42", "42")
    devset = [dspy.Example(answer=answer).with_inputs() for answer in answers]
    local, asked_locally = evaluate_locally(play, program, devset, exact)
    assert local.score == 33.33
    for metric in (f"{METRICS}:exact", exact):
        found, asked_here = _evaluate(play, name, devset, metric)
        assert (found.score, asked_here) == (local.score, asked_locally)
        assert [example for example, *_ in found.results] == devset
    with pytest.raises(EvaluationError, match=r"its inputs are none, and program 'qa:1' takes 'question'"):
        play.fleet.evaluate("qa", devset, exact)
    play.fleet.register(name, Twice())
    lacking = play.fleet.evaluate(name, devset[:1], exact)
    assert [result.error for result in lacking.examples] == ["InputError"]


def _evaluate(play: Stage, name: str, devset: list[dspy.Example], metric: Any) -> tuple[Any, list[str]]:
    first = len(play.lm.requests)
    # By a repetition of its own, since both metrics are one.
    found = play.fleet.evaluate(name, devset, metric, repeat=0 if isinstance(metric, str) else 1)
    assert found.is_new
    return found, prompts(play.lm.requests[first:])


def test_a_metric_that_asks_an_lm_asks_what_it_asks_locally(play: Stage) -> None:
    program, name = dspy.Predict("question -> response"), fresh("rag")
    devset = [dspy.Example(question=f"{name} {n}", response="so").with_inputs("question") for n in range(3)]
    play.fleet.register(name, program)
    local, asked_locally = evaluate_locally(play, program, devset, SemanticF1())
    first = len(play.lm.requests)
    found = play.fleet.evaluate(name, devset, "SemanticF1")
    assert prompts(play.lm.requests[first:]) == asked_locally
    assert (found.score, len(asked_locally)) == (local.score, 6)
    assert (found.record.usage.calls, found.record.metric_usage.calls) == (6, 3)
    assert found.cost_usd is not None
    assert found.cost_usd > 0


def test_a_program_judges_every_arm_alike(play: Stage) -> None:
    judge, devset = fresh("judge"), examples(2)
    play.fleet.register(judge, dspy.Predict("expected, given -> good: bool"))
    inputs = {"expected": "labels.answer", "given": "outputs.answer"}
    metric = MetricSpec(f"program:{judge}", "judged", inputs=inputs, output="good")
    found = play.fleet.evaluate("qa", devset, metric)
    assert found.errors == []
    assert {type(score) for *_, score in found.results} == {bool}
    assert found.record.subject.metric_reference == f"program:{judge}:1"


CLIENT = """
import sys
from snakepit_bridge.client import Fleet
fleet = Fleet(sys.argv[1], wait_s=60)
print(fleet.evaluate("qa", sys.argv[2], sys.argv[3], in_flight=20).score)
"""


@pytest.mark.parametrize("metric", [f"{METRICS}:exact", "answer_exact_match"])
def test_a_killed_client_resumes_and_no_lm_call_is_paid_twice(play: Stage, metric: str) -> None:
    devset, name = examples(40), fresh("golden")
    play.fleet.datasets.add(name, devset)
    question = str(devset[0].question).rpartition("-")[0]
    play.lm.delay(0.2)
    process = PreloadedPopen([sys.executable, "-c", CLIENT, play.url, name, metric], cwd=ROOT)
    play.await_asked(question, 10)
    process.send_signal(signal.SIGKILL)
    process.wait(PATIENCE_S)
    asked_before = len(play.requests_with(question))
    assert asked_before < 40
    found = play.fleet.evaluate("qa", name, metric)
    assert (found.score, found.record.subject.dataset, found.is_new) == (50.0, name, True)
    assert len(play.requests_with(question)) == 40
    assert play.fleet.evaluate("qa", name, metric).is_new is False
    assert len(play.requests_with(question)) == 40


def test_what_is_wrong_with_one_example_is_its_error_alone(play: Stage) -> None:
    devset = examples(6, right=lambda number: True)
    play.lm.fail(1, status=400, containing=devset[2].question)
    found = play.fleet.evaluate("qa", devset, exact, failure_score=0.25)
    assert [result.error for result in found.examples] == ["", "", "LMRefusedError", "", "", ""]
    assert [float(score) for *_, score in found.results] == [1.0, 1.0, 0.25, 1.0, 1.0, 1.0]
    assert (found.score, found.record.errors) == (87.5, 1)
    assert found.results[2][1].keys() == []


@pytest.mark.parametrize("where", ["client", "workers"])
@pytest.mark.parametrize(
    ("metric", "error"), [(raising, "ValueError"), (not_a_number, "MetricError"), (text, "MetricError")]
)
def test_a_metric_that_gives_no_score_is_an_error_of_each_example(
    play: Stage, where: Any, metric: Any, error: str
) -> None:
    found = play.fleet.evaluate("qa", examples(2), metric, where=where)
    assert [(result.error, result.score) for result in found.examples] == [(error, None)] * 2
    assert [prediction.answer[:9] for _, prediction, _ in found.results] == ["answer of"] * 2
    assert found.score == 0.0


def test_feedback_is_kept_with_the_score(play: Stage) -> None:
    for where in ("client", "workers"):
        found = play.fleet.evaluate("qa", examples(1), explained, where=where)
        [(_, _, score)] = found.results
        assert (score.score, score.feedback[:8]) == (True, "expected")


@pytest.mark.parametrize(
    ("change", "error", "problem"),
    [
        ({"program": "nobody"}, ProgramNotFoundError, "nobody"),
        ({"dataset": "missing"}, DatasetNotFoundError, "missing"),
        ({"dataset": []}, DatasetError, "no examples"),
        ({"dataset": [{"question": "?"}]}, DatasetError, "inputs aren't marked"),
        ({"dataset": [dspy.Example(query="?").with_inputs("query")]}, EvaluationError, "takes 'question'"),
        ({"metric": f"{METRICS}:missing"}, MetricError, "can't be imported"),
        ({"metric": "os:getcwd"}, MetricError, "isn't in an allowed package"),
        ({"metric": f"{METRICS}:missing", "where": "client"}, MetricError, "can't be imported"),
        ({"metric": math.inf}, MetricError, "can't be called"),
        ({"metric": lambda example: 1}, MetricError, "can't be called with an example and a prediction"),
        ({"metric": lambda example, prediction: 1, "where": "workers"}, MetricError, "workers can't find it"),
        ({"metric": MetricSpec("program:nobody", inputs={"a": "outputs.answer"})}, ProgramNotFoundError, "nobody"),
        ({"in_flight": 0}, EvaluationError, "in_flight"),
        ({"arms": ["latest", "latest"]}, EvaluationError, "each arm once"),
        ({"arms": ["stable"]}, EvaluationError, "'stable' is no revision of session"),
        ({"session": "nobody's"}, Exception, "nobody's"),
        ({"program": "warm"}, Exception, "warmth"),
    ],
)
def test_what_can_not_be_evaluated_is_refused_by_name_without_an_lm_call(
    play: Stage, change: dict[str, Any], error: type[Exception], problem: str
) -> None:
    before = len(play.lm.requests)
    call: dict[str, Any] = {"program": "qa", "dataset": examples(1), "metric": exact, **change}
    with pytest.raises(error, match=problem):
        play.fleet.evaluate(**call)
    assert len(play.lm.requests) == before


def test_an_evaluation_is_run_once_for_its_content_whatever_else_is_published(play: Stage) -> None:
    session, devset = fresh("session"), examples(2)
    blocking = play.fleet.session(session).blocking
    blocking.set_variables({"warmth": 0.5})
    first = play.fleet.evaluate("warm", devset, f"{METRICS}:closeness", session=session)
    blocking.set_variables({"unrelated": 1})
    before = len(play.lm.requests)
    again = play.fleet.evaluate("warm", devset, f"{METRICS}:closeness", session=session)
    assert (again.id, again.is_new, again.score) == (first.id, False, first.score)
    assert [dict(prediction.items()) for _, prediction, _ in again.results] == [
        dict(prediction.items()) for _, prediction, _ in first.results
    ]
    assert len(play.lm.requests) == before
    repeated = play.fleet.evaluate("warm", devset, f"{METRICS}:closeness", session=session, repeat=1)
    assert (repeated.is_new, len(play.lm.requests)) == (True, before + 2)
    blocking.set_variables({"warmth": 0.6})
    assert play.fleet.evaluate("warm", devset, f"{METRICS}:closeness", session=session).id != first.id


def test_another_metric_of_the_client_scores_the_same_predictions(play: Stage) -> None:
    devset = examples(3)
    play.fleet.evaluate("qa", devset, exact)
    before = len(play.lm.requests)
    found = play.fleet.evaluate("qa", devset, closeness)
    assert (found.is_new, len(play.lm.requests)) == (True, before)


def test_an_example_that_a_dataset_has_twice_is_predicted_twice(play: Stage) -> None:
    [example] = examples(1)
    before = len(play.lm.requests)
    assert play.fleet.evaluate("qa", [example, example], exact).record.count == 2
    assert len(play.lm.requests) == before + 2


def test_an_example_whose_lm_was_away_is_tried_again_by_the_next_run(play: Stage) -> None:
    devset = examples(4, right=lambda number: True)
    play.lm.fail(50, status=503, containing=devset[1].question)
    first = play.fleet.evaluate("qa", devset, exact)
    assert [result.error for result in first.examples] == ["", "LMUnavailableError", "", ""]
    play.lm.faults.clear()
    before = len(play.lm.requests)
    second = play.fleet.evaluate("qa", devset, exact)
    assert (second.id, second.score, second.record.errors) == (first.id, 100.0, 0)
    assert len(play.lm.requests) == before + 1


def test_arms_are_evaluated_side_by_side_and_compared_by_example(play: Stage) -> None:
    name, devset = fresh("prog"), examples(8)
    play.fleet.register(name, dspy.Predict("question -> answer"))
    play.fleet.label(name, "prod", 1)
    play.fleet.register(name, dspy.Predict(Answer42))
    arms = play.fleet.evaluate(name, devset, exact, arms=["prod", f"{name}:2", "latest"])
    assert list(arms) == ["prod", f"{name}:2", "latest"]
    assert [found.record.subject.version for found in arms.values()] == [1, 2, 2]
    compared = play.fleet.evaluations.compare(arms["prod"].id, arms["latest"])
    assert (compared.difference, compared.flipped, len(compared.pairs)) == (0.0, [], 8)
    labels = fresh("labels")
    first = play.fleet.session(labels).blocking.set_variables({"warmth": 0.1})
    play.fleet.session(labels).blocking.set_variables({"warmth": 0.9})
    sessions = play.fleet.evaluate("warm", devset, exact, session=labels, arms=[str(first), "latest"])
    assert {found.record.subject.token for found in sessions.values()} >= {str(first)}
    temperatures = {
        request.body["temperature"]
        for request in play.requests_with(devset[0].question)
        if "temperature" in request.body
    }
    assert temperatures >= {0.1, 0.9}


def test_a_variant_is_evaluated_without_being_registered(play: Stage) -> None:
    devset = examples(2)
    variant = play.fleet.store_variant("qa", dspy.Predict(Answer42))
    arms = play.fleet.evaluate("qa", devset, f"{METRICS}:exact", arms=["latest", str(variant)])
    assert [found.score for found in arms.values()] == [50.0, 50.0]
    sent = [json.dumps(request.body["messages"]) for request in play.requests_with(devset[0].question)]
    assert sorted("Answer 42." in prompt for prompt in sent) == [False, True]


def test_records_are_listed_and_found_by_the_beginning_of_their_ids(play: Stage) -> None:
    found = play.fleet.evaluate("qa", examples(2), answer_exact_match)
    evaluations = play.fleet.evaluations
    assert evaluations.list(limit=1)[0] == found.record == evaluations.get(found.id[:8])
    assert evaluations.results(found.id) == list(found.examples)
    for unknown in ("0" * 32, "00000000", "abc"):
        with pytest.raises(EvaluationNotFoundError):
            evaluations.get(unknown)


def test_gates_are_checked_against_records(play: Stage) -> None:
    dataset = fresh("golden")
    play.fleet.datasets.add(dataset, examples(4))
    gates = [f"exact({dataset}) >= 50%", f"exact({dataset}) > 0.5", f"answer_exact_match({dataset}) >= baseline"]
    check = play.fleet.evaluations.check
    outcomes = check(gates, "qa", metrics={"exact": f"{METRICS}:exact"}, baseline="qa:1")
    assert [outcome.passed for outcome in outcomes] == [True, False, True]
    before = len(play.lm.requests)
    assert check(gates, "qa", metrics={"exact": f"{METRICS}:exact"}, baseline="qa:1") == outcomes
    assert len(play.lm.requests) == before
    with pytest.raises(GateError, match="there is no baseline"):
        check([gates[2]], "qa")


def test_a_release_that_does_not_meet_its_gates_changes_nothing(play: Stage) -> None:
    fleet, name, gated, session = play.fleet, fresh("golden"), fresh("gated"), fresh("session")
    fleet.datasets.add(name, examples(4))
    fleet.register(gated, dspy.Predict("question -> answer"))
    fleet.register(gated, dspy.ChainOfThought("question -> answer"))
    fleet.label(gated, "prod", 1)
    metrics = {"exact": f"{METRICS}:exact"}
    met, unmet = ([f"exact({name}) >= baseline {change}"] for change in ("- 0.1", "+ 0.1"))
    with pytest.raises(GateFailedError, match=r"the score is 0\.5000, the bound 0\.6000"):
        fleet.label(gated, "prod", 2, require=ReleaseGates(unmet, metrics=metrics))
    with pytest.raises(GateFailedError, match=f"{gated}@prod stays as it is"):
        fleet.rollouts.start(f"{gated}@prod", 2, require=ReleaseGates(unmet, metrics=metrics))
    assert next(each.labels for each in fleet.programs() if each.name == gated) == {"prod": 1}
    assert fleet.rollouts.start(f"{gated}@prod", 2, require=ReleaseGates(met, metrics=metrics)).is_open
    fleet.label(gated, "prod", 2, require=ReleaseGates(met, metrics=metrics))
    variables = fleet.session(session).blocking
    token = variables.set_variables({"tone": "plain"})
    fleet.submit(gated, {"question": fresh("q")}, session=session).get()  # so that a worker holds the session
    with pytest.raises(GateError, match="it is evaluated with a program"):
        fleet.promote(session, "stable", require=met)
    fleet.promote(session, "stable", require=ReleaseGates([f"exact({name}) >= 0.5"], gated, metrics))
    for release in (
        lambda gates: fleet.promote(session, "stable", token, require=gates),
        lambda gates: fleet.rollouts.start(session, {"tone": "warm"}, require=gates),
    ):
        with pytest.raises(GateFailedError):
            release(ReleaseGates(unmet, gated, metrics))
    assert variables.snapshot().token == token
    assert fleet.rollouts.start(session, {"tone": "warm"}, require=ReleaseGates(met, gated, metrics)).is_open


async def test_it_can_be_awaited_in_any_loop(play: Stage) -> None:
    steps: list[int] = []
    found = await play.fleet.aevaluate(
        "qa", examples(5), exact, on_progress=lambda progress: steps.append(progress.ended)
    )
    assert (found.score, max(steps)) == (60.0, 5)


def test_a_large_example_travels_by_reference(play: Stage) -> None:
    name = fresh("large")
    devset = [dspy.Example(question=f"{name}.", answer="x" * 900_000).with_inputs("question")]
    found = play.fleet.evaluate("qa", devset, f"{METRICS}:exact")
    assert (found.errors, found.score) == ([], 0.0)
    wait_until(lambda: play.requests_with(name), "the question to be asked")


def test_an_evaluation_outlives_the_worker_that_runs_it_and_is_another_one_by_another_lm(
    play: Stage, tmp_path: Path
) -> None:
    """Another worker, whose LM profiles differ, takes over, and runs the tests that follow."""
    devset, changed = examples(20), tmp_path / "profiles.toml"
    before = Path(play.settings["DSPEX_LM_PROFILES"]).read_text(encoding="utf-8")
    changed.write_text(f"{before}\n[profiles.demo.parameters]\ntop_p = 0.5\n", encoding="utf-8")
    play.lm.delay(1.0)
    with ThreadPoolExecutor(1) as thread:
        running = thread.submit(play.fleet.evaluate, "qa", devset, f"{METRICS}:exact")
        play.await_asked(str(devset[0].question).rpartition("-")[0], 20)
        play.start(wait=False, name=fresh("next"), env={"DSPEX_LM_PROFILES": str(changed)})
        play.worker.container.kill()
        found = running.result(PATIENCE_S)
    assert (found.score, found.record.errors) == (50.0, 0)
    assert [example for example, *_ in found.results] == devset
    play.lm.delay(0.0)
    again = [play.fleet.evaluate("qa", devset, f"{METRICS}:exact") for _ in range(2)]
    assert [(each.is_new, each.score) for each in again] == [(True, 50.0), (False, 50.0)]
    assert again[0].record.key.lm_digest != found.record.key.lm_digest
