"""Batches on real workers: one message, many inputs, and each ends by itself, whatever becomes of the others."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from redis import Redis

from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.exceptions import (
    BridgeError,
    DeadlineExceededError,
    InputError,
    LMRefusedError,
    LMUnavailableError,
    PredictionCancelledError,
    PredictionGivenUpError,
    PredictionUnknownError,
    ProgramNotFoundError,
)
from tests.harness.poison import POISON, Poisonable
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S, wait_until, within

SETTINGS: dict[str, Any] = {"DSPEX_RETRY_BACKOFF_S": "0.01", "DSPEX_RESULT_EXPIRES_S": "4000"}


@pytest.fixture(scope="module", params=["asyncio", "threads", "prefork"])
def play(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), pool=request.param, **SETTINGS) as play:
        play.fleet.register("plain", dspy.Predict("question -> answer"))
        play.fleet.register("bound", dspy.Predict("question -> answer"), bindings={"temperature": "temp"})
        yield play


@pytest.fixture(autouse=True)
def undisturbed(request: pytest.FixtureRequest) -> Iterator[None]:
    yield
    if "play" in request.fixturenames:
        request.getfixturevalue("play").lm.faults.clear()


def questions(count: int) -> list[dict[str, str]]:
    name = fresh("q")
    return [{"question": f"{name}-{number}."} for number in range(count)]


def error_of(handle: Handle) -> BridgeError | None:
    try:
        handle.get(PATIENCE_S)
    except BridgeError as error:
        return error
    return None


def test_each_input_has_its_own_answer_under_its_own_id(play: Stage) -> None:
    inputs = questions(60)
    handles = play.fleet.submit_batch("plain", inputs)
    assert [handle.get(PATIENCE_S).answer for handle in handles] == [
        f"answer of {value['question']}" for value in inputs
    ]
    assert [handle.get().provenance.task_id for handle in handles] == [handle.id for handle in handles]


def test_a_batch_runs_concurrently_and_under_one_revision(play: Stage) -> None:
    session = fresh("s")
    token = play.fleet.session(session).blocking.set_variables({"temp": 0.25})
    play.lm.delay(0.3)
    inputs = questions(40)
    with within(6):
        handles = play.fleet.submit_batch("bound", inputs, session=session, at_least=token)
        predictions = [handle.get(PATIENCE_S) for handle in handles]
    assert {prediction.provenance.token for prediction in predictions} == {str(token)}
    assert {play.requests_with(value["question"])[0].body["temperature"] for value in inputs} == {0.25}


def test_what_is_wrong_with_one_input_is_its_end_alone(play: Stage) -> None:
    inputs: list[dict[str, Any]] = [*questions(5)]
    inputs[1] = {"qestion": "?"}
    inputs[3] = {"question": "?", "more": 1}
    play.lm.fail(1, status=400, containing=str(inputs[4]["question"]))
    ends = [error_of(handle) for handle in play.fleet.submit_batch("plain", inputs)]
    assert [type(end) for end in ends] == [type(None), InputError, type(None), InputError, LMRefusedError]


def test_what_is_wrong_with_all_of_them_is_the_end_of_each(play: Stage) -> None:
    ends = [error_of(handle) for handle in play.fleet.submit_batch("nowhere", questions(4))]
    assert [type(end) for end in ends] == [ProgramNotFoundError] * 4
    ends = [error_of(handle) for handle in play.fleet.submit_batch("plain", questions(4), session=fresh("nobody's"))]
    assert {type(end).__name__ for end in ends} == {"SessionNotFoundError"}


def test_an_input_whose_lm_is_away_is_tried_again_by_itself(play: Stage) -> None:
    inputs = questions(6)
    unlucky = inputs[2]["question"]
    # So long a pause isn't waited for in the worker: the input comes again as a message of its own.
    play.lm.fail(1, status=503, retry_after_s=2.2, containing=unlucky)
    handles = play.fleet.submit_batch("plain", inputs)
    with within(2):
        assert [handles[place].get(PATIENCE_S).provenance.attempt for place in (0, 1, 3, 4, 5)] == [1] * 5
    assert handles[2].get(PATIENCE_S).provenance.attempt == 2
    assert [len(play.requests_with(value["question"])) for value in inputs] == [1, 1, 2, 1, 1, 1]


def test_an_input_whose_lm_stays_away_fails_after_its_tries(play: Stage) -> None:
    inputs = questions(2)
    play.lm.fail(None, status=503, containing=inputs[0]["question"])
    first, second = play.fleet.submit_batch("plain", inputs)
    assert isinstance(error_of(first), LMUnavailableError)
    assert error_of(second) is None
    assert len(play.requests_with(inputs[0]["question"])) == 3


def test_an_input_that_was_cancelled_before_the_batch_began_is_left_out(play: Stage) -> None:
    inputs = questions(4)
    with play.held():
        handles = play.fleet.submit_batch("plain", inputs)
        assert handles[1].cancel()
    ends = [error_of(handle) for handle in handles]
    assert [type(end) for end in ends] == [type(None), PredictionCancelledError, type(None), type(None)]
    assert play.requests_with(inputs[1]["question"]) == []


def test_an_input_that_is_cancelled_while_the_batch_runs_stops_alone(play: Stage) -> None:
    inputs = questions(5)
    play.lm.hang(1, containing=inputs[3]["question"])
    handles = play.fleet.submit_batch("plain", inputs)
    play.await_asked(inputs[3]["question"])
    assert handles[3].cancel()
    ends = [error_of(handle) for handle in handles]
    assert [type(end) for end in ends] == [type(None)] * 3 + [PredictionCancelledError, type(None)]
    # Its LM request is broken off, so that the batch ends.
    wait_until(lambda: play.requests_with(inputs[3]["question"])[0].status == 499, "the LM to see its client leave")


def test_a_deadline_holds_for_each_input(play: Stage) -> None:
    for deadline_s in (2, 8, 32):  # where the machine is busy, the honest ones may need more
        inputs = questions(3)
        play.lm.hang(1, containing=inputs[1]["question"])
        handles = play.fleet.submit_batch("plain", inputs, deadline=deadline_s)
        with within(deadline_s + 8):
            ends = [error_of(handle) for handle in handles]
        play.lm.faults.clear()
        if ends[0] is ends[2] is None:
            break
    assert [type(end) for end in ends] == [type(None), DeadlineExceededError, type(None)]


def test_a_batch_itself_leaves_nothing_behind(play: Stage) -> None:
    handles = play.fleet.submit_batch("plain", questions(3))
    [handle.get(PATIENCE_S) for handle in handles]
    with Redis.from_url(play.url) as client:
        keys: Any = client.keys("celery-task-meta-*")
        stored = {key.decode().removeprefix("celery-task-meta-") for key in keys}
        ours = {handle.id for handle in handles}
        assert ours <= stored
        assert all(0 < client.ttl(f"celery-task-meta-{task_id}") <= 4000 for task_id in ours)


def test_map_sends_batches_and_keeps_the_order_and_the_bound(play: Stage) -> None:
    inputs = questions(50)
    found = list(play.fleet.map("plain", inputs, batch=8, in_flight=24, timeout=PATIENCE_S))
    assert [outcome.answer for outcome in found if isinstance(outcome, dspy.Prediction)] == [
        f"answer of {value['question']}" for value in inputs
    ]


def test_map_drops_results_that_were_yielded_where_they_are_not_to_be_kept(play: Stage) -> None:
    found = list(play.fleet.map("plain", questions(120), batch=8, in_flight=24, timeout=PATIENCE_S, keep_results=False))
    ids = [prediction.provenance.task_id for prediction in found]
    with Redis.from_url(play.url) as client:
        assert all(0 < client.ttl(f"celery-task-meta-{task_id}") <= 120 for task_id in ids)
    with pytest.raises(PredictionUnknownError, match="forgotten"):
        play.fleet.handle(ids[0]).get(1)


async def test_a_thousand_answers_are_awaited_together(play: Stage) -> None:
    handles = await asyncio.to_thread(play.fleet.submit_batch, "plain", questions(1_000))
    with within(60):
        predictions = await asyncio.gather(*handles)
    assert len({prediction.answer for prediction in predictions}) == 1_000


# ---------------------------------------------------------------- workers that die


def test_a_batch_whose_worker_was_killed_goes_on_as_single_predictions(tmp_path: Path) -> None:
    with stage(tmp_path, pool="asyncio", DSPEX_LEASE_S="1", **SETTINGS) as play:
        play.fleet.register("plain", dspy.Predict("question -> answer"))
        inputs = questions(12)
        for value in inputs[6:]:
            play.lm.hang(1, containing=value["question"])
        handles = play.fleet.submit_batch("plain", inputs)
        wait_until(lambda: all(len(play.requests_with(value["question"])) for value in inputs), "the batch to run")
        wait_until(lambda: all(handle.ready() for handle in handles[:6]), "half of it to end")
        play.worker.container.kill()
        play.start(pool="asyncio", concurrency=4)
        assert [handle.get(PATIENCE_S).answer for handle in handles] == [
            f"answer of {value['question']}" for value in inputs
        ]
        # What had ended isn't asked again; the rest is.
        assert [len(play.requests_with(value["question"])) for value in inputs] == [1] * 6 + [2] * 6


def test_an_input_that_kills_its_workers_takes_no_other_along(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"DSPEX_ALLOWED_PACKAGES": "tests", "DSPEX_LEASE_S": "1", **SETTINGS}
    with stage(tmp_path, worker=False, **settings) as play:
        # All of them run in one process, so that each death is the death of all that haven't ended.
        play.start(pool="asyncio", concurrency=50)
        fleet = Fleet(play.url, wait_s=60, allowed_packages=["tests"])
        fleet.register("poisonable", Poisonable())
        play.lm.delay(0.3)
        inputs = questions(40)
        inputs[20] = {"question": f"{POISON} {fresh('q')}"}
        handles = fleet.submit_batch("poisonable", inputs)

        def ended() -> bool:
            if play.worker.container.status != "running":
                play.worker.container.restart()
            return all(handle.ready() for handle in handles)

        wait_until(ended, "the end of each input", timeout_s=100, poll_s=0.2)
        ends = [error_of(handle) for handle in handles]
        assert [place for place, end in enumerate(ends) if end is not None] == [20]
        assert isinstance(ends[20], PredictionGivenUpError)


# ---------------------------------------------------------------- the waits' price


async def test_a_thousand_single_handles_wait_on_one_channel(redis_url: str) -> None:
    from tests.component.client.test_results import DONE

    fleet = Fleet(redis_url, wait_s=30)
    handles = [fleet.submit("qa", {"question": "?"}) for _ in range(1_000)]
    waiting = asyncio.gather(*handles)
    await asyncio.sleep(0)
    replies = fleet.results.reply_channel

    def finish() -> None:
        with Redis.from_url(redis_url) as client, client.pipeline(transaction=False) as pipeline:
            for handle in handles:
                end = {"status": "SUCCESS", "result": DONE, "traceback": None, "children": [], "task_id": handle.id}
                pipeline.set(f"celery-task-meta-{handle.id}", fleet.app.backend.encode(end), ex=60)
                pipeline.publish(replies, handle.id)
            pipeline.execute()

    wait_until(lambda: _listening(redis_url, replies), "the subscription")
    begun = time.perf_counter()
    await asyncio.to_thread(finish)
    await waiting
    print(f"1,000 gathered handles: {time.perf_counter() - begun:.2f} s")
    with Redis.from_url(redis_url) as client:
        # Other tests' connections are among these, but none has a subscription for each handle.
        assert max(int(connection["sub"]) for connection in client.client_list()) <= 10


def _listening(url: str, channel: str) -> bool:
    with Redis.from_url(url) as client:
        return client.pubsub_numsub(channel)[0][1] == 1
