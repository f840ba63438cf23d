"""Canvases that mix predictions with tasks of an application's own: each runs where its own app has it run."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import dspy
import pytest
from celery import Celery, chain, chord, group
from celery.exceptions import NotRegistered
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import InputError
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until

WAIT_S = PATIENCE_S
LIMIT = 2_000


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), DSPEX_PAYLOAD_BYTES=str(LIMIT)) as playing:
        playing.fleet.register("ask", dspy.Predict("question -> answer"))
        playing.start(
            app="tests.harness.shop_app", pool="threads", concurrency=2, queues=("shop", "shop-totals"), name="shop"
        )
        yield playing


@pytest.fixture
def shop(play: Stage) -> Celery:
    """The application's app, as the process that sends has it."""
    app = Celery("shop", broker=play.url, backend=play.url, set_as_current=False)
    app.conf.update(task_default_queue="shop", task_routes={"shop.total": {"queue": "shop-totals"}})
    return app


def test_a_task_behind_a_prediction_runs_on_its_own_workers(play: Stage, shop: Celery) -> None:
    question = fresh("q")
    steps = chain(play.fleet.signature("ask", {"question": question}), shop.signature("shop.shout"))
    assert steps.apply_async().get(timeout=WAIT_S) == f"answer of {question}".upper()


def test_a_prediction_between_two_tasks_of_an_application(play: Stage, shop: Celery) -> None:
    question = fresh("q")
    steps = chain(shop.signature("shop.ask", [question]), play.fleet.signature("ask"), shop.signature("shop.shout"))
    assert steps.apply_async().get(timeout=WAIT_S) == f"answer of {question}".upper()


@pytest.mark.parametrize("count", [1, 3])
def test_the_body_of_a_chord_over_predictions_goes_where_its_app_routes_it(
    play: Stage, shop: Celery, count: int
) -> None:
    questions = [fresh("q") for _ in range(count)]
    header = [play.fleet.signature("ask", {"question": question}) for question in questions]
    expected = sum(len(f"answer of {question}") for question in questions)
    assert chord(header, app=shop)(shop.signature("shop.total")).get(timeout=WAIT_S) == expected


def test_a_group_of_tasks_behind_a_prediction(play: Stage, shop: Celery) -> None:
    question = fresh("q")
    several = group([shop.signature("shop.shout"), shop.signature("shop.shout")], app=shop)
    sent = chain(play.fleet.signature("ask", {"question": question}), several).apply_async()
    assert sent.get(timeout=WAIT_S) == [f"answer of {question}".upper()] * 2


def test_a_callback_and_an_errback_of_a_prediction(play: Stage, shop: Celery) -> None:
    signature = play.fleet.signature("nowhere", {"question": "?"})
    sent = signature.on_error(shop.signature("shop.failed")).apply_async()
    with Redis.from_url(play.url) as client:
        key = f"celery-task-meta-failed-{sent.id}"
        assert wait_until(lambda: client.get(key), "the errback") == b"failed"


def test_a_step_that_names_its_queue_keeps_it(play: Stage, shop: Celery) -> None:
    question = fresh("q")
    named = shop.signature("shop.shout").set(queue="shop-totals")
    steps = chain(play.fleet.signature("ask", {"question": question}), named)
    assert steps.apply_async().get(timeout=WAIT_S) == f"answer of {question}".upper()


def test_a_large_result_is_read_like_a_small_one(play: Stage, shop: Celery) -> None:
    """What came by reference is fetched by ``fleet.prediction``."""
    question = fresh("q") * 500
    steps = chain(play.fleet.signature("ask", {"question": question}), shop.signature("shop.shout"))
    sent = steps.apply_async()
    assert sent.get(timeout=WAIT_S) == f"answer of {question}".upper()
    stored: Any = sent.parent.get(timeout=WAIT_S)
    assert "payload" in stored, "it went by reference"
    prediction = play.fleet.prediction(stored)
    assert prediction.answer == f"answer of {question}"
    assert prediction.provenance.program == "ask"


@pytest.mark.parametrize("given", [None, "text", {"question": "?"}, [{"v": 1}]])
def test_what_is_no_result_is_refused(play: Stage, given: Any) -> None:
    with pytest.raises(InputError, match="it must be what a prediction returned"):
        play.fleet.prediction(given)


def test_a_canvas_that_was_written_by_hand_goes_to_celerys_own_queue(play: Stage) -> None:
    """Without a Fleet nobody routes its steps beforehand: the fleet's worker keeps those out of its own queue."""
    by_hand = Celery("by-hand", broker=play.url, backend=play.url, set_as_current=False)
    question = fresh("q")
    ours = by_hand.signature("tasks.predict", [{"question": question}, "ask"], queue=play.fleet.queue)
    message = {
        "task": "nobody.knows",
        "args": [],
        "kwargs": {},
        "options": {},
        "subtask_type": None,
        "immutable": False,
    }
    ours.apply_async(link=by_hand.signature(message))
    with Redis.from_url(play.url) as client:
        wait_until(lambda: client.llen("celery\x06\x163") + client.llen("celery"), "the step in Celery's own queue")
        client.delete("celery", "celery\x06\x163")


def test_canvases_without_a_prediction_are_left_alone(play: Stage, shop: Celery) -> None:
    """A process that uses a fleet may send canvases of its own, whose routing isn't the fleet's affair."""
    Fleet(play.url).signature("ask", {"question": "?"})
    steps: Any = chain(shop.signature("shop.ask", ["text"]), shop.signature("nobody.knows"))
    sent = steps.apply_async()
    assert "queue" not in steps.tasks[1].options
    # The application's worker takes it: a message that is left would stay in the queue.
    with pytest.raises(NotRegistered):
        sent.get(timeout=WAIT_S)
