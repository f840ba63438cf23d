"""Workers and clients of several releases on one Redis: nothing is lost while they are upgraded one by one."""

from __future__ import annotations

import json
import time
from collections.abc import Generator
from typing import Any
from uuid import uuid4

import dspy
import pytest
from redis import Redis

from snakepit_bridge.cli.fleet_state import find_workers
from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.protocol.messages import SENT_AT, VERSION
from tasks.newer_messages import MAX_AGE_S, PAUSE_S
from tests.harness import golden
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import wait_until

SOON_S = 30
NEWER = VERSION + 1


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    with stage(tmp_path_factory.mktemp("stage"), pool="asyncio") as playing:
        playing.fleet.register("plain", dspy.Predict("question -> answer"))
        yield playing


def send(play: Stage, question: str, *, age_s: float = 0.0, **keywords: Any) -> str:
    """Send a prediction as a client of another release may, and return its id."""
    task_id = str(uuid4())
    play.fleet.app.send_task(
        "tasks.predict", [{"question": question}, "plain"], {"v": NEWER, **keywords}, task_id=task_id,
        queue=play.fleet.queue, headers={SENT_AT: time.time() - age_s},
    )  # fmt: skip
    return task_id


def test_a_newer_message_is_left_to_a_newer_worker(play: Stage) -> None:
    question, batched = fresh("q"), fresh("q")
    task_id, batch_id = send(play, question), str(uuid4())
    play.fleet.app.send_task(
        "tasks.predict_batch", [[[batch_id, {"question": batched}]], "plain"], {"v": NEWER},
        queue=play.fleet.queue, headers={SENT_AT: time.time(), "task_ids": [batch_id]},
    )  # fmt: skip
    # It holds up nobody, and is still there after this worker has put it back several times.
    over = time.monotonic() + 3 * PAUSE_S
    wait_until(lambda: time.monotonic() > over, "the worker to have seen it")
    [worker] = find_workers(play.fleet, SOON_S).workers
    assert worker.newer_release == f"a message has version {NEWER}, and this worker reads {VERSION}"
    assert play.fleet.submit("plain", {"question": fresh("q")}).get(SOON_S).answer
    handles = {task_id: play.fleet.handle(task_id), batch_id: play.fleet.handle(batch_id)}
    assert not any(handle.ready() for handle in handles.values())
    assert play.requests_with(question) + play.requests_with(batched) == []

    newer = play.start(app="tests.harness.newer_app", pool="asyncio", preloaded=False, name="newer")
    with Redis.from_url(play.url) as client:
        for each in handles:
            stored: Any = wait_until(lambda: client.get(f"celery-task-meta-{each}"), "its result")  # noqa: B023
            result = json.loads(stored)["result"]
            assert (result["v"], result["provenance"]["worker"]) == (NEWER, newer.container.node)
    # A client of this release says what it has found.
    with pytest.raises(ConfigurationError, match=f"has version {NEWER}, this client reads {VERSION}. Upgrade it"):
        handles[task_id].get(SOON_S)
    assert [len(play.requests_with(each)) for each in (question, batched)] == [1, 1]
    newer.kill()
    play.workers.remove(newer)


def test_a_newer_message_that_no_newer_worker_comes_for_fails_by_name(play: Stage) -> None:
    question = fresh("q")
    handle = play.fleet.handle(send(play, question, age_s=MAX_AGE_S))
    with pytest.raises(ConfigurationError, match=f"has version {NEWER}, this worker reads 1 to {VERSION}"):
        handle.get(SOON_S)
    assert play.requests_with(question) == []


@pytest.mark.parametrize("release", golden.releases())
def test_messages_that_a_release_has_queued_are_answered(play: Stage, release: str) -> None:
    fleet = Fleet(play.url)
    if "golden" not in {program.name for program in fleet.programs()}:
        fleet.register("golden", dspy.Predict("question -> answer"))
    messages: list[dict[str, Any]] = golden.load(release, "server")["messages"]
    ids = [each for message in messages for each in message["headers"].get("task_ids", [message["headers"]["id"]])]
    with Redis.from_url(play.url) as client:
        golden.restore_session(client, golden.load(release, "server"))
        for message in messages:
            message["properties"]["delivery_info"]["routing_key"] = play.fleet.queue
            client.lpush(play.fleet.queue, json.dumps(message))
    answers = sorted(fleet.handle(each).get(SOON_S).answer for each in ids)
    assert answers == sorted(f"answer of {each}" for each in ("why?", "why?", "one?", "two?"))
