"""Namespaces on one Redis: what is sent, steered and asked in one reaches nothing of another."""

from __future__ import annotations

import json
from collections.abc import Generator

import pytest

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import ForeignNamespaceError, PredictionTimeoutError, ProgramNotFoundError
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S

SPEC = {"module": "Predict", "signature": "question -> answer"}


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage")) as playing:
        playing.fleet.register("qa", {**SPEC, "bindings": {"temperature": "temp"}}, lm="demo")
        playing.fleet.session("shop").blocking.set_variables({"temp": 0.1})
        yield playing


@pytest.fixture
def staging(play: Stage) -> Fleet:
    """A fleet of the same Redis that has no worker yet, with the same program and session."""
    fleet = Fleet(play.url, namespace=fresh("staging"), wait_s=30)
    fleet.register("qa", {**SPEC, "bindings": {"temperature": "temp"}}, lm="demo")
    fleet.session("shop").blocking.set_variables({"temp": 0.9})
    return fleet


def test_workers_of_one_namespace_take_nothing_of_another(play: Stage, staging: Fleet) -> None:
    """A staging fleet doesn't run on production's workers under production's variables."""
    question = fresh("question")
    handle = staging.submit("qa", {"question": question}, session="shop")
    # Production answers what comes after it, so that it would have taken what came before.
    play.fleet.submit("qa", {"question": fresh("other")}, session="shop").get()
    with pytest.raises(PredictionTimeoutError):
        handle.get(0.2)
    assert play.requests_with(question) == []
    play.start(
        env={"DSPEX_NAMESPACE": staging.namespace}, queues=(staging.queue,), concurrency=2, name="staging", wait=False
    )
    prediction = handle.get(PATIENCE_S)
    assert (prediction.provenance.variables, play.requests_with(question)[0].temperature) == ({"temp": 0.9}, 0.9)


def test_a_queue_that_two_namespaces_share_serves_one_and_refuses_the_other_by_name(
    play: Stage, staging: Fleet
) -> None:
    shared = Fleet(play.url, namespace=staging.namespace, queue=play.fleet.queue, wait_s=30)
    question = fresh("question")
    single = shared.submit("qa", {"question": question}, session="shop")
    batch = shared.submit_batch("qa", [{"question": question}] * 3, session="shop")
    linked = shared.handle(shared.signature("qa", {"question": question}, session="shop").apply_async().id)
    for handle in (single, *batch, linked):
        with pytest.raises(ForeignNamespaceError, match=rf"'{staging.namespace}'.*serves 'dspex'"):
            handle.get()
    assert play.requests_with(question) == []


def test_what_a_sender_without_a_namespace_sends_is_taken(play: Stage) -> None:
    """Any Celery client can send a prediction; the queue says whose it is."""
    question = fresh("question")
    sent = play.fleet.app.send_task(
        "tasks.predict", [{"question": question}, "qa"], {"session": "shop"}, queue=play.fleet.queue
    )
    assert play.fleet.handle(sent.id).get().answer


def test_remote_control_of_one_namespace_reaches_no_worker_of_another(play: Stage, staging: Fleet) -> None:
    assert play.fleet.app.control.ping(timeout=2, limit=1)
    assert staging.app.control.ping(timeout=1) == []
    staging.app.control.cancel_consumer(play.fleet.queue)
    staging.app.control.shutdown()
    assert play.fleet.submit("qa", {"question": fresh("question")}, session="shop").get().answer


def test_registry_and_sessions_are_a_namespaces_own(play: Stage, staging: Fleet) -> None:
    name = fresh("program")
    staging.register(name, SPEC, lm="demo")
    with pytest.raises(ProgramNotFoundError):
        play.fleet.submit(name, {"question": "?"}).get()
    assert json.dumps(play.fleet.session("shop").blocking.get_variable("temp")) == "0.1"
