"""The fleet's own app through pytest-celery's classes: it answers, and a dead worker or broker loses nothing."""

from __future__ import annotations

from collections.abc import Generator
from pathlib import Path

import dspy
import pytest
from pytest_celery import CeleryTestSetup, CeleryTestWorker

from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.testing import Fault, RecordingLM
from tests.conftest import wait_until
from tests.harness.containers import WorkerSpec
from tests.harness.stage import LM_KEY, echo, fresh

POOLS = ["asyncio", "threads", "prefork"]


@pytest.fixture
def lm() -> Generator[RecordingLM]:
    with RecordingLM(echo, api_key=LM_KEY) as lm:
        yield lm


@pytest.fixture(params=POOLS)
def worker_spec(request: pytest.FixtureRequest, lm: RecordingLM, tmp_path: Path) -> WorkerSpec:
    profiles = tmp_path / "profiles.toml"
    profiles.write_text(f'[profiles.demo]\nmodel = "openai/demo"\napi_base = "{lm.url}"\napi_key_env = "STAGE_KEY"\n')
    # What a killed worker held is handed on after its lease.
    env = {"DSPEX_LM_PROFILES": str(profiles), "STAGE_KEY": LM_KEY, "DSPEX_LEASE_S": "2"}
    # The first test starts it as an operator does.
    forked = request.node.originalname != test_a_prediction_is_answered_under_the_sessions_variables.__name__
    return WorkerSpec(pool=request.param, env=env, preloaded=forked)


@pytest.fixture
def fleet(celery_setup: CeleryTestSetup) -> Fleet:
    fleet = Fleet(celery_setup.broker.config()["host_url"], wait_s=60)
    fleet.register("qa", dspy.Predict("question -> answer"), bindings={"temperature": "warmth"})
    fleet.session("smoke").blocking.set_variable("warmth", 0.25)
    return fleet


def ask(fleet: Fleet) -> tuple[str, Handle]:
    question = fresh("q")
    return question, fleet.submit("qa", {"question": question}, session="smoke")


def count_requests(lm: RecordingLM, question: str) -> int:
    return sum(question in value for request in lm.requests for value in request.inputs.values())


def test_a_prediction_is_answered_under_the_sessions_variables(
    celery_setup: CeleryTestSetup, fleet: Fleet, lm: RecordingLM
) -> None:
    assert celery_setup.ready(control=True)
    question, handle = ask(fleet)
    answer = handle.get()
    assert answer.answer == f"answer of {question}"
    assert answer.provenance.variables == {"warmth": 0.25}
    (request,) = lm.requests
    assert request.temperature == 0.25


def test_a_prediction_outlives_the_worker_that_runs_it(
    celery_worker: CeleryTestWorker, fleet: Fleet, lm: RecordingLM
) -> None:
    lm.faults.add(Fault("hang"))
    question, handle = ask(fleet)
    wait_until(lambda: count_requests(lm, question), "the worker to have asked the LM")
    celery_worker.kill()
    assert not handle.ready()
    celery_worker.restart()
    assert handle.get().answer == f"answer of {question}"
    assert count_requests(lm, question) == 2


def test_what_was_enqueued_outlives_the_broker(celery_setup: CeleryTestSetup, fleet: Fleet) -> None:
    assert ask(fleet)[1].get()
    celery_setup.worker.kill()
    question, handle = ask(fleet)
    celery_setup.broker.kill()
    celery_setup.broker.restart()
    celery_setup.worker.restart()
    assert handle.get().answer == f"answer of {question}"
