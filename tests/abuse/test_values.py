"""Any JSON object is possible data: it arrives as it was, through every door of a running fleet.

The program answers by what its inputs are, and the LM records the prompt, so both what a worker received and what it
handed back are compared with what was given.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from typing import Any

import dspy
import pytest
from celery import chain, chord, group
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import InputError, PredictionGivenUpError
from snakepit_bridge.testing import AskedQuestion
from tests.harness.stage import Stage, fresh, stage
from tests.harness.waiting import PATIENCE_S

WAIT_S = PATIENCE_S
KEYS = [
    "__type__",
    "__value__",
    "__data__",
    "__class__",
    "__dspy__",
    "$payload",
    "$ref",
    "$type",
    "v",
    "outputs",
    "payload",
]
# DSPy reads answers line by line, and takes the separators among these for ends of lines.
TEXTS = st.text(st.characters(exclude_categories=["Cs", "Cc", "Zl", "Zp"]), max_size=5)
LEAVES = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | TEXTS
NAMES = st.sampled_from(["datetime", "date", "time", "decimal", "uuid", "bytes", "base64", "Invoice", 1, None])
TYPED = st.fixed_dictionaries({"__type__": NAMES, "__value__": LEAVES | st.just("aGk=") | st.just("2026-01-02")})
ESCAPED = st.fixed_dictionaries({"__type__": NAMES, "__value__": LEAVES, "__data__": LEAVES | st.just({"__data__": 0})})
VALUES = st.recursive(
    LEAVES | TYPED | ESCAPED,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=8,
)
# Forms of values that were changed or refused once.
SEEN: list[Any] = [
    {"__type__": "Invoice", "__value__": 1},
    {"__type__": "datetime", "__value__": "2026-01-02T03:04:05"},
    {"__type__": "decimal", "__value__": "1.50"},
    {"__type__": "base64", "__value__": "aGk="},
    {"deep": [{"__type__": "uuid", "__value__": {"hex": "0" * 32}}]},
    {"$payload": "0" * 64, "bytes": 9},
    {"v": 1, "outputs": {"a": 1}, "provenance": {}, "inputs": {}},
    {"v": 1, "payload": "payload:00:1"},
    {"__class__": "os.system", "$ref": "#/x", "__dspy__": 1},
]


def answers(ask: AskedQuestion) -> dict[str, Any]:
    """Hand each value back, as the JSON text that the LM was shown."""
    text = ask.inputs.get("document", ask.inputs.get("documents", "null"))
    return {output.name: json.loads(text) if output.annotation != "str" else text for output in ask.layout.outputs}


@pytest.fixture(scope="module")
def play(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stage]:
    folder = tmp_path_factory.mktemp("stage")
    with stage(folder, answer=answers, DSPEX_PAYLOAD_BYTES="2000", DSPEX_RESULT_EXPIRES_S="600") as play:
        play.fleet.register("same", dspy.Predict("document: dict -> twin: dict"))
        play.fleet.register("all", dspy.Predict("documents: list[dict] -> twins: list[dict]"))
        play.fleet.session("default").blocking.set_variables({"any": 1})  # a replay needs a revision
        yield play


def single(fleet: Fleet, value: Any) -> Any:
    return fleet.submit("same", {"document": value}).get(WAIT_S)


def keyed(fleet: Fleet, value: Any) -> Any:
    key = fresh("key")
    first = fleet.submit("same", {"document": value}, idempotency_key=key)
    assert fleet.submit("same", {"document": value}, idempotency_key=key).id == first.id
    return first.get(WAIT_S)


def batch(fleet: Fleet, value: Any) -> Any:
    plain, odd = fleet.submit_batch("same", [{"document": {"a": 1}}, {"document": value}])
    assert plain.get(WAIT_S).twin == {"a": 1}
    return odd.get(WAIT_S)


def mapped(fleet: Fleet, value: Any) -> Any:
    [prediction] = fleet.map("same", [{"document": value}], timeout=WAIT_S)
    return prediction


def by_reference(fleet: Fleet, value: Any) -> Any:
    large = fleet.submit("same", {"document": {"padding": "x" * 3_000, "value": value}}).get(WAIT_S)
    assert large.twin["padding"] == "x" * 3_000
    return dspy.Prediction(twin=large.twin["value"])


def signed(fleet: Fleet, value: Any) -> Any:
    return fleet.handle(fleet.signature("same", {"document": value}).apply_async().id).get(WAIT_S)


def chained(fleet: Fleet, value: Any) -> Any:
    steps = chain(fleet.signature("same", {"document": value}), fleet.signature("same", take={"document": "twin"}))
    return fleet.handle(steps.apply_async().id).get(WAIT_S)


def in_a_chord(fleet: Fleet, value: Any) -> Any:
    header = group(fleet.signature("same", {"document": item}) for item in (value, {"b": 2}))
    prediction = fleet.handle(chord(header)(fleet.signature("all", take={"documents": "twin"})).id).get(WAIT_S)
    assert prediction.twins[1] == {"b": 2}
    return dspy.Prediction(twin=prediction.twins[0])


def replayed(fleet: Fleet, value: Any) -> Any:
    first = fleet.submit("same", {"document": value})
    first.get(WAIT_S)
    again = fleet.replay(first.id, WAIT_S)
    assert again.inputs == {"document": value}
    return again.again


DOORS: list[Callable[[Fleet, Any], Any]] = [
    single, keyed, batch, mapped, by_reference, signed, chained, in_a_chord, replayed,
]  # fmt: skip


@pytest.mark.parametrize("door", DOORS)
def test_what_looks_like_a_marker_arrives_and_comes_back_as_it_was(
    play: Stage, door: Callable[[Fleet, Any], Any]
) -> None:
    """Each of the forms that were seen to be changed or refused."""
    fleet = Fleet(play.url, wait_s=WAIT_S, payload_bytes=2_000, result_expires_s=600)
    document = {"all": SEEN, **{f"n{number}": seen for number, seen in enumerate(SEEN)}}
    returned = door(fleet, document)
    assert returned.twin == document
    for seen in SEEN:
        assert door(fleet, seen).twin == seen


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], print_blob=True)
@given(value=st.dictionaries(st.sampled_from(KEYS), VALUES, max_size=3), door=st.sampled_from(DOORS))
def test_any_json_arrives_and_comes_back_as_it_was(play: Stage, value: Any, door: Callable[[Fleet, Any], Any]) -> None:
    fleet = Fleet(play.url, wait_s=WAIT_S, payload_bytes=2_000, result_expires_s=600)
    assert door(fleet, value).twin == value


def test_a_stock_client_reads_results_and_sends_plain_messages(play: Stage) -> None:
    """Also those that hold what Celery's JSON has a meaning for; only such an object gets one key more."""
    send = play.fleet.app.send_task
    sent = send("tasks.predict", [{"document": {"__type__": "Invoice", "__value__": 1}}, "same"], queue="predictions")
    stored = sent.get(timeout=WAIT_S)
    assert stored["outputs"] == {"twin": {"__type__": "Invoice", "__value__": 1, "__data__": 0}}
    assert stored["escaped"] is True
    sent = send("tasks.predict", [{"document": {"a": [1]}}, "same"], queue="predictions")
    stored = sent.get(timeout=WAIT_S)
    assert (stored["outputs"], "escaped" in stored) == ({"twin": {"a": [1]}}, False)


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": value}
    return value


@pytest.mark.parametrize("door", [single, keyed, batch, mapped, signed, chained])
@pytest.mark.parametrize("depth", [102, 400, 5_000, 100_000])
def test_what_is_too_deep_is_refused_by_the_client(play: Stage, door: Callable[[Fleet, Any], Any], depth: int) -> None:
    with pytest.raises(InputError, match=r"'document': in a.*nested deeper than 100 levels"):
        door(play.fleet, nested(depth))


def test_what_is_just_not_too_deep_arrives(play: Stage) -> None:
    assert single(play.fleet, nested(95)).twin == nested(95)


@pytest.mark.parametrize("depth", [150, 400, 900, 3_000, 100_000])
def test_a_raw_message_that_is_too_deep_ends_by_a_named_error(play: Stage, depth: int) -> None:
    """No client of ours has looked at it."""
    text = '{"a":' * depth + "1" + "}" * depth
    sent = play.fleet.app.send_task("tasks.predict", [{"document": "THERE"}, "same"], queue="none")
    body = json.dumps([[{"document": "THERE"}, "same"], {}, {}]).replace('"THERE"', text)
    push_raw(play, sent.id, body)
    with pytest.raises((InputError, PredictionGivenUpError), match=r"nested deeper than 100 levels|nested too deeply"):
        play.fleet.handle(sent.id).get(WAIT_S)
    assert single(play.fleet, {"a": 1}).twin == {"a": 1}


def push_raw(play: Stage, task_id: str, body: str) -> None:
    """Push a message whose body no client would write."""
    import base64

    from redis import Redis

    with Redis.from_url(play.url) as client:
        message: Any = client.rpop("none")
        envelope = json.loads(message)
        envelope["body"] = base64.b64encode(body.encode()).decode()
        envelope["properties"]["delivery_info"]["routing_key"] = "predictions"
        client.lpush("predictions", json.dumps(envelope))


def test_other_values_that_no_message_can_hold_are_refused_by_name(play: Stage) -> None:
    """At the door, and not at each prediction."""
    for value, says in (
        ({"a": object()}, "a value of type object has no JSON form"),
        ({"a": "x\ud800"}, "lone surrogate"),
        ({"a": 10**5_000}, "4,200 digits"),
        ({1: 1, "1": 2}, "two of its keys"),
    ):
        with pytest.raises(InputError, match=says):
            play.fleet.submit("same", {"document": value})
        with pytest.raises(InputError, match=says):
            play.fleet.submit_batch("same", [{"document": {}}, {"document": value}])
        with pytest.raises(InputError, match=says):
            play.fleet.signature("same", {"document": value})


def test_unusual_numbers_and_many_keys_arrive(play: Stage) -> None:
    value = {"big": 10**300, "tiny": 5e-324, "minus": -0.0, "many": {f"k{number}": number for number in range(5_000)}}
    returned = by_reference(play.fleet, value)
    assert returned.twin == value
