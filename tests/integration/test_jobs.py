"""Evaluations and optimizations as jobs on real workers: watched, cancelled, and killed in the middle."""

from __future__ import annotations

import hashlib
import json
import re
import sys
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Any

import dspy
import pytest

from snakepit_bridge.client.evaluation_options import EvaluationOptions
from snakepit_bridge.client.optimization.budget import Budget
from snakepit_bridge.evaluations.jobs import Job
from snakepit_bridge.evaluations.optimizations import OptimizationRecord
from snakepit_bridge.exceptions import (
    DatasetNotFoundError,
    EvaluationError,
    JobNotFoundError,
    MetricError,
    OptimizationError,
    PredictionTimeoutError,
    ProgramNotFoundError,
)
from snakepit_bridge.testing import AskedQuestion
from tests.harness.containers import LocalTestWorker
from tests.harness.embedders import PROFILE
from tests.harness.metrics import exact
from tests.harness.preloaded import PreloadedPopen
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until

ROOT = Path(__file__).parents[2]
METRIC = "tests.harness.metrics:exact"
NUMBERS = {f"{a} plus {b}?": str(a + b) for a in range(5) for b in range(3)}
_MARK = re.compile(r"[a-z]+-[0-9a-f]{8}: ")


def answer(ask: AskedQuestion) -> Mapping[str, Any]:
    """Answer a sum rightly for some prompts and wrongly for others, the same whatever mark the questions have."""
    question = _MARK.sub("", ask.inputs.get("question", ""))
    if question not in NUMBERS:
        return {"proposed_instruction": "Add both numbers.", "proposed_prefix_for_output_field": "Sum:"}
    prompt = _MARK.sub("", json.dumps(ask.body["messages"], sort_keys=True))
    is_right = "Add both numbers." in prompt or hashlib.sha256(prompt.encode()).digest()[0] % 3 > 0
    return {"reasoning": f"about {question}", "answer": NUMBERS[question] if is_right else "no idea"}


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    settings: dict[str, Any] = {"DSPEX_ALLOWED_PACKAGES": "tests", "DSPEX_LEASE_S": "1"}
    with stage(tmp_path_factory.mktemp("jobs"), answer=answer, more_profiles=PROFILE, **settings) as playing:
        playing.fleet.register("qa", dspy.ChainOfThought("question -> answer"))
        start_code_worker(playing)
        yield playing


@pytest.fixture(autouse=True)
def undisturbed(play: Stage) -> Generator[None]:
    yield
    play.lm.faults.clear()


def start_code_worker(play: Stage) -> LocalTestWorker:
    return play.start(pool="prefork", concurrency=1, queues=("predictions.code",), name=fresh("code"))


def datasets(play: Stage) -> tuple[str, str, str]:
    """Store a training set and a validation set, and return their names and the mark of their questions."""
    mark = fresh("sums")
    rows = [{"question": f"{mark}: {question}", "answer": text} for question, text in NUMBERS.items()]
    play.fleet.datasets.add(f"{mark}-train", rows[:8], inputs=["question"])
    play.fleet.datasets.add(f"{mark}-val", rows[8:], inputs=["question"])
    return f"{mark}-train", f"{mark}-val", mark


def record(job: Job) -> OptimizationRecord:
    assert job.state == "succeeded", job
    assert job.end is not None
    return OptimizationRecord.decode(job.end.result)


def test_an_evaluation_on_a_worker_has_the_record_of_a_local_one(play: Stage) -> None:
    train, _, mark = datasets(play)
    job = play.fleet.jobs.evaluate("qa", train, METRIC, arms=["latest", "qa:1"])
    assert (job.kind, job.program, job.arguments["dataset"]) == ("evaluation", "qa", f"{train}:1")
    done = play.fleet.jobs.wait(job.id, 60)
    assert (done.state, done.progress["total"], done.progress["ended"]) == ("succeeded", 16, 16)
    count = len(play.requests_with(mark))
    found = play.fleet.evaluate("qa", train, METRIC)
    assert done.end is not None
    assert done.end.result["arms"]["qa:1"] == {"id": found.id, "score": found.score}
    assert (found.is_new, len(play.requests_with(mark))) == (False, count)
    assert play.fleet.jobs.list(kind="evaluation")[0].id == job.id


COPRO: dict[str, Any] = {"optimizer": "COPRO", "options": {"breadth": 3, "depth": 2}, "in_flight": 2}


def test_an_optimization_outlives_its_worker_and_pays_for_nothing_twice(play: Stage) -> None:
    train, _, mark = datasets(play)
    before = len(play.lm.requests)
    whole = play.fleet.jobs.optimize("qa:1", train, METRIC, author="ann", **COPRO)
    found = record(play.fleet.jobs.wait(whole.id, 120))
    own = len(play.lm.requests) - before - len(play.requests_with(mark))
    assert own > 0
    other, _, mark_of_other = datasets(play)
    before = len(play.lm.requests)
    play.lm.delay(0.1)
    killed = play.fleet.jobs.optimize("qa:1", other, METRIC, author="ann", **COPRO)
    play.await_asked(mark_of_other, len(play.requests_with(mark)) // 2)
    play.workers[-1].container.kill()
    running = play.fleet.jobs.get(killed.id)
    assert running.state == "running"
    play.lm.delay(0.0)
    start_code_worker(play)
    resumed = record(play.fleet.jobs.wait(killed.id, 120))
    assert len(play.requests_with(mark_of_other)) == len(play.requests_with(mark))
    assert len(play.lm.requests) - before - len(play.requests_with(mark_of_other)) == own
    assert [trial.digest for trial in resumed.trials] == [trial.digest for trial in found.trials]
    assert (resumed.best, resumed.score, resumed.version) == (found.best, found.score, found.version)
    assert (resumed.own_usd, resumed.usd) == (found.own_usd, found.usd)
    assert float(resumed.own_usd) > 0
    lineage = play.fleet.lineage(f"qa:{found.version}")
    assert lineage is not None
    assert (lineage.run_id, lineage.metric, lineage.author) == (killed.id, "exact", "ann")
    assert (
        play.fleet.submit("qa@candidate", {"question": "1 plus 1?"}).get(PATIENCE_S).provenance.version == found.version
    )


CLIENT = """
import sys
from snakepit_bridge.client import Fleet
from tests.harness.embedders import PROFILE
from tests.harness.metrics import exact
fleet = Fleet(sys.argv[1], wait_s=60)
fleet.optimize("qa:1", sys.argv[2], exact, valset=sys.argv[3], run_id=sys.argv[2], in_flight=2, label=None,
    optimizer="BootstrapFewShotWithRandomSearch", options={"max_bootstrapped_demos": 2, "num_candidate_programs": 3})
"""


def test_a_killed_client_goes_on_with_its_optimization_and_pays_for_nothing_twice(play: Stage) -> None:
    def optimize(train: str, val: str) -> Any:
        return play.fleet.optimize(
            "qa:1", train, exact, valset=val, run_id=train, in_flight=2, label=None,
            optimizer="BootstrapFewShotWithRandomSearch",
            options={"max_bootstrapped_demos": 2, "num_candidate_programs": 3},
        )  # fmt: skip

    train, val, mark = datasets(play)
    whole, (other, other_val, mark_of_other) = optimize(train, val), datasets(play)
    play.lm.delay(0.1)
    client = PreloadedPopen([sys.executable, "-c", CLIENT, play.url, other, other_val], cwd=ROOT)
    play.await_asked(mark_of_other, len(play.requests_with(mark)) // 2)
    client.kill()
    client.wait(PATIENCE_S)
    play.lm.delay(0.0)
    resumed = optimize(other, other_val)
    assert len(play.requests_with(mark_of_other)) == len(play.requests_with(mark))
    assert _MARK.sub("", json.dumps(resumed.module.dump_state())) == _MARK.sub(
        "", json.dumps(whole.module.dump_state())
    )
    assert (resumed.score, resumed.record.trainset) == (whole.score, f"{other}:1")


async def test_a_cancelled_job_sends_no_more_predictions_and_registers_nothing(play: Stage) -> None:
    train, val, mark = datasets(play)
    play.lm.delay(0.2)
    jobs = play.fleet.jobs.aio
    options = {"max_bootstrapped_demos": 2, "num_candidate_programs": 9}
    job = await jobs.optimize(
        "qa:1", train, METRIC, optimizer="BootstrapFewShotWithRandomSearch", options=options, valset=val, in_flight=2
    )
    states: list[Job] = []
    async for state in jobs.watch(job.id):
        states.append(state)
        if state.progress.get("predictions", 0) >= 4:
            await jobs.cancel(job.id)
    assert (states[-1].state, states[-1].end is not None) == ("cancelled", True)
    # The next job begins once the worker has ended this one.
    following = await jobs.evaluate("qa", val, METRIC)
    assert (await jobs.wait(following.id, 60)).state == "succeeded"
    version = play.fleet.versions("qa")[0].version
    count = len(play.requests_with(mark))
    assert count < 7 * 7
    assert (await jobs.get(job.id)).progress["version"] is None
    assert play.fleet.versions("qa")[0].version == version
    assert len(play.requests_with(mark)) == count


def test_a_budget_ends_a_job_with_the_best_so_far(play: Stage) -> None:
    train, _, _ = datasets(play)
    job = play.fleet.jobs.optimize(
        "qa:1", train, METRIC, optimizer="COPRO", options={"breadth": 2, "depth": 1}, label=None, in_flight=2,
        budget=Budget(max_predictions=10),
    )  # fmt: skip
    found = record(play.fleet.jobs.wait(job.id, 60))
    assert (found.predictions, found.stopped, found.label) == (10, "10 predictions were made", "")
    assert found.score == max(trial.score for trial in found.comparable)


def test_what_a_worker_can_not_run_is_the_end_of_its_job(play: Stage) -> None:
    train, _, _ = datasets(play)
    for metric, optimizer, error in (
        ("tests.harness.metrics:nothing", "COPRO", "MetricError"),
        (METRIC, "json:JSONDecoder", "OptimizationError"),
    ):
        job = play.fleet.jobs.optimize("qa:1", train, metric, optimizer=optimizer)
        ended = play.fleet.jobs.wait(job.id, 60)
        assert ended.end is not None
        assert (ended.state, ended.end.error) == ("failed", error)
        assert ended.end.problem


def test_a_job_embeds_its_trainset_by_a_profile_for_knn_few_shot(play: Stage) -> None:
    train, val, mark = datasets(play)
    options = {"k": 2, "vectorizer": "embedder", "max_labeled_demos": 2}
    job = play.fleet.jobs.optimize("qa:1", train, METRIC, optimizer="KNNFewShot", options=options, label=mark)
    ended = play.fleet.jobs.wait(job.id, PATIENCE_S)
    assert ended.state == "succeeded", ended.end
    [embedded] = [each.texts for each in play.lm.embedded if mark in each.texts[0]]
    assert embedded == tuple(f"question: {mark}: {question}" for question in list(NUMBERS)[:8])
    assert record(ended).own_usd != "0"
    evaluation = play.fleet.evaluate(f"qa@{mark}", val, METRIC)
    assert not evaluation.record.errors


def test_what_can_not_be_a_job_is_refused_before_it_starts(play: Stage) -> None:
    train, _, _ = datasets(play)
    jobs = play.fleet.jobs
    count = len(jobs.list())
    with pytest.raises(DatasetNotFoundError):
        jobs.evaluate("qa", "nothing", METRIC)
    with pytest.raises(EvaluationError, match="a job's metric runs on workers"):
        jobs.evaluate("qa", train, METRIC, options=EvaluationOptions(where="client"))
    with pytest.raises(ProgramNotFoundError):
        jobs.evaluate("nobody", train, METRIC)
    with pytest.raises(OptimizationError, match="BootstrapFinetune: it trains weights"):
        jobs.optimize("qa", train, METRIC, optimizer="BootstrapFinetune")
    with pytest.raises(OptimizationError, match="given by its name or import path"):
        jobs.optimize("qa", train, METRIC, optimizer=dspy.COPRO(metric=exact))  # type: ignore[arg-type]
    with pytest.raises(OptimizationError, match="those of a job are JSON values"):
        jobs.optimize("qa", train, METRIC, optimizer="COPRO", options={"prompt_model": object()})
    with pytest.raises(MetricError):
        jobs.optimize("qa", train, "not a metric", optimizer="COPRO")
    with pytest.raises(JobNotFoundError):
        jobs.get("0" * 32)
    assert len(jobs.list()) == count


def test_a_job_without_a_worker_waits_in_its_queue(play: Stage) -> None:
    train, _, _ = datasets(play)
    play.workers[-1].container.kill()
    name = fresh("job")
    first = play.fleet.jobs.evaluate("qa", train, METRIC, job_id=name)
    assert play.fleet.jobs.evaluate("qa", train, METRIC, job_id=name) == first
    with pytest.raises(PredictionTimeoutError, match="is queued"):
        play.fleet.jobs.wait(name, 1)
    assert play.fleet.jobs.cancel(name).state == "cancelled"
    start_code_worker(play)
    following = play.fleet.jobs.evaluate("qa", train, METRIC)
    assert play.fleet.jobs.wait(following.id, 60).state == "succeeded"
    assert play.fleet.jobs.get(name).started_at is None
    wait_until(lambda: play.fleet.jobs.list(kind="evaluation")[0].id == following.id, "the newest to come first")
