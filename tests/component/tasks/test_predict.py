"""The Celery task around a prediction: versions, retries, and one final result per task."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from typing import Any

import dspy
import pytest
from celery.states import IGNORED, REJECTED
from redis import Redis

from config.settings import FleetSettings
from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import BridgeError, ConfigurationError, DataFormatError, InputError, LMUnavailableError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import PREDICT, SENT_AT, VERSION
from snakepit_bridge.redis.data_format import DATA_FORMAT
from snakepit_bridge.testing import RecordingLM
from tasks.newer_messages import MAX_AGE_S, NEWER_RELEASE
from tasks.predict import predict
from tasks.predict_batch import predict_batch
from workers.app import FleetApp


@pytest.fixture
def app(redis_url: str, worker_settings: FleetSettings) -> Generator[FleetApp]:
    settings = worker_settings.model_copy(update={"retry_backoff_s": 0.01, "task_attempts": 3})
    Fleet(redis_url).register("qa", dspy.Predict("question -> answer"))
    app = FleetApp(settings)
    yield app
    run_blocking(app.runtime.aclose())


def call(app: FleetApp, *args: Any, task_id: str = "task", **kwargs: Any) -> Any:
    """Run the task in this process, by Celery's own tracer."""
    return app.tasks[PREDICT].apply(args=args, kwargs=kwargs, task_id=task_id)


def test_it_returns_the_result_as_json(app: FleetApp) -> None:
    done = call(app, {"question": "why?"}, "qa", v=VERSION)
    assert done.state == "SUCCESS"
    assert json.loads(json.dumps(done.result)) == done.result
    assert done.result["outputs"] == {"answer": "answer of why?"}
    assert done.result["provenance"]["task_id"] == "task"


def test_the_first_step_of_a_canvas_has_no_inputs(app: FleetApp, redis_url: str) -> None:
    """For a program without any that is all it takes, and another one says which it misses."""
    Fleet(redis_url).register("joke", {"module": "Predict", "signature": "-> joke"})
    assert call(app, "joke", chained=True).result["outputs"]["joke"]
    assert isinstance(call(app, "qa", chained=True).result, InputError)
    assert "names no program" in str(call(app, {"question": "why?"}).result)


def test_another_version_of_the_message_is_refused(app: FleetApp) -> None:
    done = call(app, {"question": "why?"}, "qa", v=VERSION + 1)
    assert type(done.result) is ConfigurationError
    assert f"version {VERSION + 1}, this worker reads {VERSION}" in str(done.result)


@pytest.mark.parametrize("age_s", [0.0, MAX_AGE_S])
def test_data_of_a_newer_release_is_left_to_a_newer_worker(app: FleetApp, redis_url: str, age_s: float) -> None:
    with Redis.from_url(redis_url) as client:
        client.set("dspex:format", DATA_FORMAT + 1)
    headers, batch = {SENT_AT: time.time() - age_s}, app.tasks[predict_batch.name]
    done = app.tasks[PREDICT].apply(args=({"question": "why?"}, "qa"), task_id="task", headers=headers)
    batched = batch.apply(args=([["input", {"question": "why?"}]], "qa"), headers=headers)
    if age_s:
        assert type(done.result) is DataFormatError
        assert (batched.state, batched.result.requeue) == (REJECTED, False), "it is a dead letter, to be sent again"
    else:
        assert (done.state, done.result.requeue) == (batched.state, batched.result.requeue) == (REJECTED, True)
        assert NEWER_RELEASE.problem == f"the fleet's data has format {DATA_FORMAT + 1}, and this worker reads 1"


def test_a_requirement_that_cannot_be_read_is_refused(app: FleetApp) -> None:
    done = call(app, {"question": "why?"}, "qa", requirement="newest")
    assert type(done.result) is BridgeError
    assert "got 'newest'" in str(done.result)


def test_an_lm_that_is_away_is_tried_so_many_times(app: FleetApp, lm: RecordingLM) -> None:
    lm.fail(None, status=503)
    done = call(app, {"question": "why?"}, "qa")
    assert type(done.result) is LMUnavailableError
    assert len(lm.requests) == app.runtime.profiles["demo"].retry.attempts == 3


def test_no_try_is_made_that_would_come_after_the_deadline(app: FleetApp, lm: RecordingLM) -> None:
    lm.fail(None, status=429, retry_after_s=30)
    done = call(app, {"question": "why?"}, "qa", deadline=time.time() + 10)
    assert type(done.result) is LMUnavailableError
    assert len(lm.requests) == 1


@pytest.mark.parametrize("state", ["SUCCESS", "REVOKED", "FAILURE"])
def test_a_task_that_has_ended_is_dropped(app: FleetApp, lm: RecordingLM, redis_url: str, state: str) -> None:
    with Redis.from_url(redis_url) as client:
        client.set(app.backend.get_key_for_task("task"), json.dumps({"status": state}), ex=60)
    assert call(app, {"question": "why?"}, "qa").state == IGNORED
    assert lm.requests == []


def test_a_named_error_is_an_answer_and_no_traceback_in_the_log(app: FleetApp) -> None:
    assert issubclass(LMUnavailableError, tuple(app.tasks[PREDICT].throws))


def test_the_task_has_the_name_on_the_wire() -> None:
    assert predict.name == PREDICT == "tasks.predict"
