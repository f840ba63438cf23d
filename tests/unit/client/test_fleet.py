"""The fleet without workers: what it opens, what it refuses, what it makes of programs, sessions and signatures."""

from __future__ import annotations

import gc
import json
from typing import Any

import dspy
import pytest
from celery import Celery
from kombu import pools
from redis import Redis

from snakepit_bridge.client import Fleet, Handle
from snakepit_bridge.exceptions import (
    ConfigurationError,
    InputError,
    PredictionTimeoutError,
    ProgramNotFoundError,
    ProgramSpecError,
    SessionNameError,
)
from snakepit_bridge.programs.build import serialize_module
from snakepit_bridge.protocol.messages import PREDICT, VERSION
from snakepit_bridge.protocol.token import Token
from tests.harness.leaks import connections
from tests.harness.waiting import wait_until

NOWHERE = "redis://user:sesame@127.0.0.1:1/0"
QA = {"module": "Predict", "signature": "question -> answer"}


def test_a_fleet_opens_nothing_until_it_is_used() -> None:
    fleet = Fleet(NOWHERE)
    assert fleet.signature("qa", {"question": "why?"})
    assert fleet.handle("some-task").id == "some-task"
    assert fleet.session("s").session_id == "s"


def test_no_password_is_ever_shown() -> None:
    fleet = Fleet(NOWHERE)
    for shown in (repr(fleet), fleet.url, repr(fleet.session("s")), repr(fleet.handle("id"))):
        assert "sesame" not in shown
    assert repr(fleet) == "Fleet('redis://***@127.0.0.1:1/0')"


def test_a_fleet_works_from_defaults() -> None:
    fleet = Fleet()
    assert (fleet.url, fleet.namespace, fleet.queue) == ("redis://localhost:6379/0", "dspex", "predictions")


def test_its_own_app_speaks_json_alone_and_waits_within_bounds() -> None:
    conf = Fleet(NOWHERE, timeout_s=1.5, result_expires_s=60).app.conf
    assert (conf.task_serializer, conf.result_serializer, list(conf.accept_content)) == ("json", "json", ["json"])
    assert conf.result_expires == 60
    assert conf.redis_socket_timeout == conf.broker_connection_timeout == 1.5


def test_its_own_app_is_nobodys_current_app() -> None:
    from celery import current_app

    before = current_app.main
    assert Fleet(NOWHERE).app.main != before
    assert current_app.main == before


def test_a_given_app_is_used_as_it_is() -> None:
    app = Celery("shop", broker="amqp://broker", backend="redis://127.0.0.1:2/3", set_as_current=False)
    fleet = Fleet(app=app)
    assert fleet.app is app
    assert fleet.url == "redis://127.0.0.1:2/3"
    assert app.conf.broker_url == "amqp://broker"


@pytest.mark.parametrize("backend", [None, "rpc://", "db+sqlite:///x", "mongodb://user:sesame@host/db"])
def test_an_app_whose_results_are_elsewhere_is_refused(backend: str | None) -> None:
    app = Celery("shop", broker="memory://", backend=backend, set_as_current=False)
    with pytest.raises(ConfigurationError, match=r"result backend must be Redis, .*; it is ") as raised:
        Fleet(app=app)
    assert "sesame" not in str(raised.value)


# ---------------------------------------------------------------- submit


@pytest.mark.parametrize("priority", [-1, 10])
def test_a_priority_outside_its_range_is_refused(priority: int) -> None:
    with pytest.raises(ValueError, match=rf"A priority is 0 to 9, the most urgent; got {priority}"):
        Fleet(NOWHERE).submit("qa", {}, priority=priority)


def test_inputs_are_checked_before_anything_is_sent() -> None:
    fleet = Fleet(NOWHERE)
    wrong: Any = "why?"
    with pytest.raises(InputError, match="not str"):
        fleet.submit("qa", wrong)
    with pytest.raises(InputError, match="not str"):
        fleet.signature("qa", wrong)


def test_the_inputs_are_the_messages_own(redis_url: str) -> None:
    fleet, inputs = Fleet(redis_url), {"question": "why?"}
    first = fleet.submit("qa", inputs)
    inputs["question"] = "changed"
    second = fleet.submit("qa", inputs)
    assert isinstance(first, Handle)
    assert first.id != second.id
    with Redis.from_url(redis_url) as client:
        # Priority 5 waits in the list of step 3; the newest is at the left.
        stored = [json.loads(message)["headers"]["id"] for message in client.lrange("predictions\x06\x163", 0, -1)]
    assert stored == [second.id, first.id]


# ---------------------------------------------------------------- signatures


def test_a_signature_is_the_same_message_as_a_submit() -> None:
    signature = Fleet(NOWHERE, queue="q").signature(
        "qa", {"question": "why?"}, session="s", exactly=Token(5, 2), take={"a": "b"}
    )
    assert (signature.task, signature.args) == (PREDICT, ({"question": "why?"}, "qa"))
    assert signature.kwargs == {
        "v": VERSION,
        "session": "s",
        "requirement": "exactly=5.2",
        "take": {"a": "b"},
        "namespace": "dspex",
    }
    assert signature.options["queue"] == "q"
    assert json.loads(json.dumps(signature))["task"] == PREDICT


def test_a_signature_without_inputs_leaves_the_place_for_the_previous_result() -> None:
    signature = Fleet(NOWHERE).signature("qa", take={"question": "answer"})
    assert signature.args == ("qa",)
    assert signature.clone(args=("previous",)).args == ("previous", "qa")


# ---------------------------------------------------------------- programs


def test_a_program_keeps_its_version_until_it_changes(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    first = fleet.register("qa", dspy.Predict("question -> answer"))
    assert fleet.register("qa", dspy.Predict("question -> answer")).version == first.version == 1
    changed = fleet.register("qa", dspy.ChainOfThought("question -> answer"))
    assert changed.version == 2
    assert [(one.name, one.latest) for one in fleet.programs()] == [("qa", 2)]


def test_a_program_is_registered_from_a_module_a_spec_a_mapping_or_text(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    spec = serialize_module(dspy.Predict("question -> answer"), program="qa")
    forms: list[Any] = [dspy.Predict("question -> answer"), spec, json.loads(spec.encode()), spec.encode().decode()]
    assert {fleet.register("qa", form).digest for form in forms} == {fleet.register("qa", spec).digest}


def test_bindings_arguments_and_profile_are_added_to_a_given_spec(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    spec = fleet.register("qa", QA, {"temperature": "temp"}, arguments={"max_tokens": 7}, lm="smart").spec
    assert (spec.bindings, spec.arguments, spec.lm) == ({"temperature": "temp"}, {"max_tokens": 7}, "smart")
    kept = fleet.register("qa", {**QA, "bindings": {"temperature": "temp"}, "lm": "smart"}).spec
    assert (kept.bindings, kept.lm) == ({"temperature": "temp"}, "smart")


def test_a_module_variable_is_declared_with_what_it_may_choose(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    spec = fleet.register(
        "qa", dspy.Predict("question -> answer"), choose_by="strategy", among=("Predict", "ChainOfThought")
    ).spec
    assert spec.module_names == ("Predict", "ChainOfThought")


def test_a_binding_that_fits_none_of_a_modules_attributes_stores_nothing(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    with pytest.raises(ProgramSpecError, match=r"refused at bindings\.temprature"):
        fleet.register("qa", QA, {"temprature": "temp"})
    assert fleet.programs() == []


def test_a_label_is_moved_from_version_to_version(redis_url: str) -> None:
    fleet = Fleet(redis_url)
    fleet.register("qa", dspy.Predict("question -> answer"))
    fleet.register("qa", dspy.ChainOfThought("question -> answer"))
    fleet.label("qa", "prod", 1)
    assert fleet.programs()[0].labels == {"prod": 1}
    fleet.label("qa", "prod", 2)
    assert fleet.programs()[0].labels == {"prod": 2}
    with pytest.raises(ProgramNotFoundError, match="qa:9"):
        fleet.label("qa", "prod", 9)


def test_namespaces_keep_fleets_apart(redis_url: str) -> None:
    Fleet(redis_url, namespace="one").register("qa", QA)
    assert Fleet(redis_url, namespace="two").programs() == []


def test_a_session_publishes_into_the_fleets_store(redis_url: str) -> None:
    fleet = Fleet(redis_url, namespace="one")
    token = fleet.session("s", author="me").blocking.set_variables({"temp": 0.5})
    assert fleet.session("s").blocking.snapshot().token == token
    assert fleet.session("s").blocking.get_variables() == {"temp": 0.5}


@pytest.mark.parametrize("session", ["", "  ", "\n", "x" * 513, 7, None, "\ud83d"])
def test_what_cannot_name_a_session_is_refused_before_anything_is_sent(session: Any) -> None:
    """KINDS 51."""
    fleet = Fleet(NOWHERE)
    with pytest.raises(SessionNameError, match="A session's name is a text of 1 to 512 characters"):
        fleet.submit("qa", {}, session=session)
    with pytest.raises(SessionNameError):
        fleet.submit_batch("qa", [{}], session=session)
    with pytest.raises(SessionNameError):
        fleet.signature("qa", {}, session=session)
    with pytest.raises(SessionNameError):
        fleet.session(session)


@pytest.mark.parametrize(
    ("given", "advice"),
    [
        (dspy.Predict, r"it is the class Predict; give an instance: Predict\(…\)"),
        (dspy.ChainOfThought, "it is the class ChainOfThought"),
        (int, "it is the class int"),
        (dspy.Signature("a -> b"), r"it is the signature .*; give a module of it: dspy.Predict\("),
        (None, "not NoneType"),
        (3, "not int"),
        (lambda: None, "not function"),
        (dspy.Prediction(a=1), "not Prediction"),
    ],
)
def test_what_is_no_program_is_refused_with_advice(given: Any, advice: str) -> None:
    """KINDS 51: ``register("c", dspy.Predict)``."""
    with pytest.raises(ProgramSpecError, match=rf"The spec of program 'c' is refused at the whole: .*{advice}"):
        Fleet(NOWHERE).register("c", given)


@pytest.mark.parametrize(
    "url", ["localhost", "localhost:6379", "http://x", "redis://h:port/0", "redis://h/x", "rediss://h/0x1", "ftp://h"]
)
def test_what_is_no_redis_url_is_refused_at_once(url: str) -> None:
    """KINDS 51."""
    with pytest.raises(ConfigurationError, match=r"Can't read the Redis URL .*; it looks like redis://host:6379/0"):
        Fleet(url)


def test_a_fleet_that_nobody_holds_any_more_leaves_no_connection_of_its_own(redis_url: str) -> None:
    before, fleet = connections(redis_url), Fleet(redis_url)
    with pytest.raises(PredictionTimeoutError):
        fleet.submit("qa", {"question": "why?"}).get(timeout=0.1)
    fleet.session("s").blocking.register_variable("temperature", "float", 0.5)
    pools.reset()  # kombu keeps those to the broker for the next fleet
    assert connections(redis_url) - before
    del fleet

    def closed() -> bool:
        gc.collect()
        return not connections(redis_url) - before

    wait_until(closed, "its connections to be closed")
