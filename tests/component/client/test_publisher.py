"""What goes onto the queue, and how an idempotency key holds against slow, dead and concurrent clients."""

from __future__ import annotations

import base64
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from celery import Celery
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.client import publisher as publishing
from snakepit_bridge.exceptions import IdempotencyConflictError, InputError
from snakepit_bridge.protocol.messages import PREDICT, PREDICT_BATCH, VERSION
from tests.harness.waiting import PATIENCE_S, within

QUEUE = "predictions\x06\x163"  # where a priority of 5 waits
INPUTS = {"question": "why?"}


def queued(url: str, queue: str = QUEUE) -> list[dict[str, Any]]:
    """Return the queue's messages, the oldest first."""
    with Redis.from_url(url) as client:
        return [json.loads(message) for message in reversed(client.lrange(queue, 0, -1))]


def test_a_request_is_a_stock_celery_message(redis_url: str) -> None:
    before = time.time()
    handle = Fleet(redis_url).submit("qa", INPUTS, session="s", at_least="5.2", deadline=60)
    [message] = queued(redis_url)
    args, kwargs, embedded = json.loads(base64.b64decode(message["body"]))
    assert args == [INPUTS, "qa"]
    assert before + 60 <= kwargs.pop("deadline") <= time.time() + 60
    assert kwargs == {"v": VERSION, "session": "s", "requirement": "at_least=5.2", "namespace": "dspex"}
    assert embedded == {}
    assert not {name for name, value in message["headers"].items() if value in (None, {}, [])} - {"eta", "group"}
    assert message["content-type"] == "application/json"
    assert (message["headers"]["task"], message["headers"]["id"]) == (PREDICT, handle.id)
    assert before <= message["headers"]["sent_at"] <= time.time()
    assert message["headers"]["reply_channel"].startswith("dspex:replies:")


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
    with pytest.raises(IdempotencyConflictError) as raised:
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


def test_a_message_of_a_key_is_the_one_that_kombu_would_push(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    fleet.submit("qa", INPUTS)
    fleet.submit("qa", INPUTS, idempotency_key="key")
    plain, keyed = queued(redis_url)
    for message in (plain, keyed):
        message["properties"] |= {"delivery_tag": "", "correlation_id": ""}
        message["headers"] |= {"id": "", "root_id": "", "sent_at": 0}
    assert keyed == plain


@pytest.mark.parametrize("options", [{"global_keyprefix": "p:"}, {"priority_steps": [0, 5]}, {"sep": ":"}])
def test_a_message_of_a_key_goes_where_the_apps_own_options_send_it(redis_url: str, options: dict[str, Any]) -> None:
    app = Celery("own", broker=redis_url, backend=redis_url, set_as_current=False)
    app.conf.broker_transport_options = options
    fleet = Fleet(app=app)
    fleet.submit("qa", INPUTS)
    fleet.submit("qa", INPUTS, idempotency_key="key")
    with Redis.from_url(redis_url) as client:
        [queue] = [name for name in client.keys("*predictions*") if "binding" not in str(name)]
        assert client.llen(queue) == 2
        client.flushdb()


# ---------------------------------------------------------------- clients that die


_DYING = """
import os, signal, sys
from celery import Celery
from snakepit_bridge.client import Fleet
from snakepit_bridge.client import publisher as publishing
from snakepit_bridge.redis.connection import RedisConnection

url, broker, point = sys.argv[1:]

def dying(function, after):
    def die(*args, **named):
        if after:
            function(*args, **named)
        os.kill(os.getpid(), signal.SIGKILL)
    return die

async def script_dies(*args):
    if point == "after the script":
        await run(*args)
    os.kill(os.getpid(), signal.SIGKILL)

run = RedisConnection.execute_script
if point.endswith("the script"):
    RedisConnection.execute_script = script_dies
elif point == "before the message":
    publishing.MessagePublisher._send = dying(publishing.MessagePublisher._send, False)
else:
    publishing.MessagePublisher._send = dying(publishing.MessagePublisher._send, True)
fleet = Fleet(app=Celery("own", broker=broker, backend=url, set_as_current=False))
fleet.submit("qa", {"question": "why?"}, idempotency_key="key")
"""


def die(url: str, broker: str, point: str) -> None:
    """Let a client process be killed with -9 at this point of its submit."""
    ended = subprocess.run([sys.executable, "-c", _DYING, url, broker, point], capture_output=True, check=False)
    assert ended.returncode == -signal.SIGKILL, ended.stderr.decode()


@pytest.mark.parametrize(("point", "queued_then"), [("before the script", 0), ("after the script", 1)])
def test_a_client_killed_around_the_script_leaves_both_or_neither(redis_url: str, point: str, queued_then: int) -> None:
    die(redis_url, redis_url, point)
    with Redis.from_url(redis_url) as client:
        assert len(client.keys("*idempotency*")) == len(queued(redis_url)) == queued_then
    with within(2):
        handle = Fleet(redis_url).submit("qa", INPUTS, idempotency_key="key")
    assert [message["headers"]["id"] for message in queued(redis_url)] == [handle.id]


@pytest.fixture
def other_broker(redis_url: str) -> Iterator[str]:
    """A broker that no script can write to together with the reservation."""
    url = f"{redis_url.rpartition('/')[0]}/0"
    yield url
    with Redis.from_url(url) as client:
        client.flushdb()


@pytest.mark.parametrize(("point", "queued_then"), [("before the message", 0), ("before the mark", 1)])
def test_what_a_killed_client_reserved_with_another_broker_is_sent_by_the_next(
    redis_url: str, other_broker: str, monkeypatch: pytest.MonkeyPatch, point: str, queued_then: int
) -> None:
    monkeypatch.setattr(publishing, "_MAX_SEND_S", 0.2)
    die(redis_url, other_broker, point)
    assert len(queued(other_broker)) == queued_then
    fleet = Fleet(app=Celery("own", broker=other_broker, backend=redis_url, set_as_current=False))
    with within(3):
        handle = fleet.submit("qa", INPUTS, idempotency_key="key")
    # A client that only died before it could say so has its message out twice, under one task id.
    assert [message["headers"]["id"] for message in queued(other_broker)] == [handle.id] * (queued_then + 1)
    assert fleet.submit("qa", INPUTS, idempotency_key="key").id == handle.id
    assert len(queued(other_broker)) == queued_then + 1


def test_who_comes_while_another_sends_waits_for_him(
    redis_url: str, other_broker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    send, sending = publishing.MessagePublisher._send, threading.Event()

    def slowly(*arguments: Any) -> None:
        sending.set()
        time.sleep(0.2)
        send(*arguments)

    def submit() -> str:
        fleet = Fleet(app=Celery("own", broker=other_broker, backend=redis_url, set_as_current=False))
        return fleet.submit("qa", INPUTS, idempotency_key="key").id

    monkeypatch.setattr(publishing.MessagePublisher, "_send", slowly)
    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(submit)
        assert sending.wait(PATIENCE_S)
        rest = [pool.submit(submit) for _ in range(3)]
        assert {future.result() for future in rest} == {first.result()}
    assert len(queued(other_broker)) == 1


# ---------------------------------------------------------------- batches


def batch_of(url: str) -> list[list[Any]]:
    """Return the items of the one queued batch."""
    [message] = queued(url)
    assert message["headers"]["task"] == PREDICT_BATCH
    [items, program], _, _ = json.loads(base64.b64decode(message["body"]))
    assert program == "qa"
    return items


def test_a_batch_is_one_message_in_which_each_input_has_its_task(redis_url: str) -> None:
    inputs = [{"question": f"q{number}"} for number in range(50)]
    handles = Fleet(redis_url).submit_batch("qa", inputs, session="s")
    assert batch_of(redis_url) == [[handle.id, item] for handle, item in zip(handles, inputs, strict=True)]
    assert len({handle.id for handle in handles}) == 50


def test_a_batch_of_nothing_sends_nothing(redis_url: str) -> None:
    assert Fleet(redis_url).submit_batch("qa", []) == []
    assert queued(redis_url) == []


def test_inputs_of_a_batch_whose_keys_are_known_are_not_sent_again(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    first = fleet.submit("qa", {"question": "q1"}, idempotency_key="k1")
    with Redis.from_url(redis_url) as client:
        client.delete(QUEUE)
    ended(redis_url, first.id)
    inputs = [{"question": f"q{number}"} for number in range(4)]
    handles = fleet.submit_batch("qa", inputs, idempotency_keys=["k0", "k1", None, "k3"])
    assert handles[1].id == first.id
    assert [task_id for task_id, _ in batch_of(redis_url)] == [handles[0].id, handles[2].id, handles[3].id]
    again = fleet.submit_batch("qa", inputs, idempotency_keys=["k0", "k1", "k2", "k3"])
    assert [again[place].id for place in (0, 1, 3)] == [handles[place].id for place in (0, 1, 3)]


def test_a_batch_with_a_conflict_sends_nothing_at_all(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    first = fleet.submit("qa", {"question": "q0"}, idempotency_key="k0")
    with pytest.raises(IdempotencyConflictError) as raised:
        fleet.submit_batch("qa", [{"question": "new"}, {"question": "other"}], idempotency_keys=["k1", "k0"])
    assert (raised.value.key, raised.value.task_id) == ("k0", first.id)
    assert len(queued(redis_url)) == 1
    with Redis.from_url(redis_url) as client:
        assert len(client.keys("*idempotency*")) == 1


def test_one_key_twice_in_a_batch_is_one_prediction_or_a_conflict(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    first, second = fleet.submit_batch("qa", [INPUTS, dict(INPUTS)], idempotency_keys=["key", "key"])
    assert first.id == second.id
    assert len(batch_of(redis_url)) == 1
    with pytest.raises(IdempotencyConflictError):
        fleet.submit_batch("qa", [INPUTS, {"question": "other"}], idempotency_keys=["twice", "twice"])


def test_keys_and_inputs_of_a_batch_go_together(redis_url: str) -> None:
    with pytest.raises(ValueError, match="2 inputs, 1 keys"):
        Fleet(redis_url).submit_batch("qa", [INPUTS, INPUTS], idempotency_keys=["key"])


def test_a_key_that_is_used_again_after_its_time_is_another_task_for_other_inputs(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    first = fleet.submit("qa", INPUTS, idempotency_key="key")
    with Redis.from_url(redis_url) as client:
        client.delete(*client.keys("*idempotency*"))
    assert fleet.submit("qa", {"question": "other"}, idempotency_key="key").id != first.id


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("key", [None, "key"])
def test_inputs_that_are_not_json_leave_nothing_behind(redis_url: str, key: str | None) -> None:
    with pytest.raises(InputError, match="set_iterator has no JSON form"):
        Fleet(redis_url).submit("qa", {"question": {1, 2}.__iter__()}, idempotency_key=key)
    with Redis.from_url(redis_url) as client:
        assert [name for name in client.keys("*") if "binding" not in str(name)] == []


# ---------------------------------------------------------------- keys that outlive their results


def ended(url: str, task_id: str) -> None:
    """Store a result as a worker does."""
    with Redis.from_url(url) as client:
        client.set(f"celery-task-meta-{task_id}", json.dumps({"status": "SUCCESS", "result": {}}))


def moved(url: str, where: str, task_id: str) -> None:
    """Put the only message where it is while nobody has it in a list of the queue."""
    with Redis.from_url(url) as client:
        message: Any = client.lpop(QUEUE)
        record = QUEUE.encode() + b"\n" + message
        if where == "code":
            client.lpush("predictions.code", message)
        elif where == "delayed":
            client.zadd("dspex:delivery:delayed", {record: 1})
        elif where == "held":
            client.hset("dspex:delivery:workers", "w", 1)
            client.hset("dspex:delivery:held:w", "w.1", record)
        elif where == "parked":
            client.hset("dspex:{limits}:messages", task_id, record)


def test_a_key_whose_task_and_result_are_gone_makes_the_prediction_anew(redis_url: str) -> None:
    """The result has expired, and the message went with its end."""
    fleet = Fleet(redis_url)
    first = fleet.submit("qa", INPUTS, idempotency_key="key")
    with Redis.from_url(redis_url) as client:
        client.delete(QUEUE)
    assert fleet.submit("qa", INPUTS, idempotency_key="key").id == first.id
    [message] = queued(redis_url)
    assert message["headers"]["id"] == first.id


def test_a_key_whose_result_is_there_is_not_sent_again(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    first = fleet.submit("qa", INPUTS, idempotency_key="key")
    with Redis.from_url(redis_url) as client:
        client.delete(QUEUE)
    ended(redis_url, first.id)
    assert fleet.submit("qa", INPUTS, idempotency_key="key").id == first.id
    assert queued(redis_url) == []


@pytest.mark.parametrize("where", ["waiting", "code", "delayed", "held", "parked"])
def test_a_key_whose_task_is_under_way_is_not_sent_again(redis_url: str, where: str) -> None:
    fleet = Fleet(redis_url)
    first = fleet.submit("qa", INPUTS, idempotency_key="key")
    if where != "waiting":
        moved(redis_url, where, first.id)
    before = len(queued(redis_url))
    assert fleet.submit("qa", INPUTS, idempotency_key="key").id == first.id
    assert len(queued(redis_url)) == before


def test_of_a_batch_only_what_is_gone_is_sent_again(redis_url: str) -> None:
    fleet, inputs = Fleet(redis_url), [{"question": str(number)} for number in range(4)]
    keys = [f"k{number}" for number in range(4)]
    first = fleet.submit_batch("qa", inputs, idempotency_keys=keys)
    with Redis.from_url(redis_url) as client:
        client.delete(QUEUE)
    for handle in first[:2]:
        ended(redis_url, handle.id)
    again = fleet.submit_batch("qa", inputs, idempotency_keys=keys)
    assert [handle.id for handle in again] == [handle.id for handle in first]
    [message] = queued(redis_url)
    assert message["headers"]["task_ids"] == [handle.id for handle in first[2:]]
    fleet.submit_batch("qa", inputs, idempotency_keys=keys)
    assert len(queued(redis_url)) == 1


def test_what_there_is_no_time_to_look_for_counts_as_under_way(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    first = fleet.submit("qa", INPUTS, idempotency_key="key")
    with Redis.from_url(redis_url) as client:
        client.delete(QUEUE)
        with client.pipeline(transaction=False) as pipeline:
            for _ in range(410):
                pipeline.lpush("predictions", *["{}"] * 500)
            pipeline.execute()
    with within(3):
        assert fleet.submit("qa", INPUTS, idempotency_key="key").id == first.id
    assert queued(redis_url) == []


# ---------------------------------------------------------------- what headers say


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("key", [None, "key"])
def test_headers_name_the_tasks_and_hold_nothing_of_the_inputs(redis_url: str, batch: bool, key: str | None) -> None:
    fleet = Fleet(redis_url)
    if batch:
        handles = fleet.submit_batch("qa", [{"question": "canary"}] * 2, idempotency_keys=key and [key, f"{key}2"])
    else:
        handles = [fleet.submit("qa", {"question": "canary"}, idempotency_key=key)]
    [message] = queued(redis_url)
    assert "canary" not in json.dumps([message["headers"], message["properties"]])
    assert message["headers"]["program"] == "qa"
    assert message["headers"].get("task_ids", [message["headers"]["id"]]) == [handle.id for handle in handles]
