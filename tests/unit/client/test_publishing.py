"""What goes onto the queue, and how an idempotency key holds against slow, dead and concurrent clients."""

from __future__ import annotations

import base64
import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from redis import Redis

from snakepit_bridge.client import Fleet, publishing
from snakepit_bridge.exceptions import IdempotencyConflict, InputError
from snakepit_bridge.messages import PREDICT, VERSION
from tests.harness.stage import within

QUEUE = "predictions\x06\x163"  # where a priority of 5 waits
INPUTS = {"question": "why?"}


def queued(url: str, queue: str = QUEUE) -> list[dict[str, Any]]:
    """Returns the queue's messages, the oldest first."""
    with Redis.from_url(url) as client:
        return [json.loads(message) for message in reversed(client.lrange(queue, 0, -1))]


def test_a_request_is_a_stock_celery_message(redis_url: str) -> None:
    before = time.time()
    handle = Fleet(redis_url).submit("qa", INPUTS, session="s", at_least="5.2", deadline=60)
    [message] = queued(redis_url)
    args, kwargs, embedded = json.loads(base64.b64decode(message["body"]))
    assert args == [INPUTS, "qa"]
    assert before + 60 <= kwargs.pop("deadline") <= time.time() + 60
    assert kwargs == {"v": VERSION, "session": "s", "requirement": "at_least=5.2"}
    assert embedded["chain"] is embedded["chord"] is None
    assert message["content-type"] == "application/json"
    assert (message["headers"]["task"], message["headers"]["id"]) == (PREDICT, handle.id)
    assert before <= message["headers"]["sent_at"] <= time.time()


def test_sending_subscribes_to_nothing(redis_url: str) -> None:
    handle = Fleet(redis_url).submit("qa", INPUTS)
    with Redis.from_url(redis_url) as client:
        assert client.pubsub_numsub(f"celery-task-meta-{handle.id}")[0][1] == 0


def test_a_key_is_sent_once_and_gives_one_id(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    ids = {fleet.submit("qa", INPUTS, idempotency_key="key").id for _ in range(5)}
    ids |= {Fleet(redis_url).submit("qa", dict(INPUTS), idempotency_key="key").id}
    assert len(ids) == len(queued(redis_url)) == 1
    assert fleet.submit("qa", INPUTS, idempotency_key="other").id not in ids


def test_a_deadline_is_counted_from_each_submit_and_is_no_other_request(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    ids = {fleet.submit("qa", INPUTS, idempotency_key="key", deadline=wait).id for wait in (10, 20)}
    assert len(ids) == len(queued(redis_url)) == 1


def test_a_key_for_another_request_is_a_conflict_and_sends_nothing(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    first = fleet.submit("qa", INPUTS, idempotency_key="key")
    with pytest.raises(IdempotencyConflict) as raised:
        fleet.submit("qa", {"question": "why not?"}, idempotency_key="key")
    assert (raised.value.key, raised.value.task_id) == ("key", first.id)
    assert len(queued(redis_url)) == 1


def test_a_key_is_forgotten_with_the_result(redis_url: str) -> None:
    Fleet(redis_url, result_expires_s=500).submit("qa", INPUTS, idempotency_key="key")
    with Redis.from_url(redis_url) as client:
        [name] = client.keys("*idempotency*")
        assert 490 < client.ttl(name) <= 500


def test_namespaces_keep_keys_apart(redis_url: str) -> None:
    ids = {Fleet(redis_url, namespace=name).submit("qa", INPUTS, idempotency_key="key").id for name in ("a", "b")}
    assert len(ids) == 2


def test_what_a_dead_client_reserved_is_sent_by_the_next(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publishing, "_SENDING_S", 0.2)
    fleet = Fleet(redis_url)
    with monkeypatch.context() as dying:

        def die(*_: object) -> str:
            raise KeyboardInterrupt

        dying.setattr(publishing.Publisher, "_send", die)
        with pytest.raises(KeyboardInterrupt):
            fleet.submit("qa", INPUTS, idempotency_key="key")
    assert queued(redis_url) == []
    with within(2):
        handle = fleet.submit("qa", INPUTS, idempotency_key="key")
    assert [message["headers"]["id"] for message in queued(redis_url)] == [handle.id]


def test_who_comes_while_another_sends_waits_for_him(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    send, sending = publishing.Publisher._send, threading.Event()

    def slowly(*arguments: Any) -> str:
        sending.set()
        time.sleep(0.2)
        return send(*arguments)

    monkeypatch.setattr(publishing.Publisher, "_send", slowly)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(Fleet(redis_url).submit, "qa", INPUTS, idempotency_key="key")
        assert sending.wait(5)
        rest = [pool.submit(Fleet(redis_url).submit, "qa", INPUTS, idempotency_key="key") for _ in range(3)]
        assert {one.result().id for one in rest} == {first.result().id}
    assert len(queued(redis_url)) == 1


@pytest.mark.parametrize("key", [None, "key"])
def test_inputs_that_are_not_json_leave_nothing_behind(redis_url: str, key: str | None) -> None:
    with pytest.raises(InputError, match="they must be JSON values"):
        Fleet(redis_url).submit("qa", {"question": {1, 2}.__iter__()}, idempotency_key=key)
    with Redis.from_url(redis_url) as client:
        assert [name for name in client.keys("*") if b"binding" not in name] == []
