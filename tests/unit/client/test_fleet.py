"""The fleet without workers: what it opens, what it refuses, what it makes of programs, sessions and signatures."""

from __future__ import annotations

import json
from typing import Any

import dspy
import pytest
from celery import Celery

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import (
    ConfigurationError,
    InputError,
    ProgramSpecError,
    SessionNameError,
    SubmitOptionError,
)
from snakepit_bridge.protocol.messages import PREDICT, VERSION
from snakepit_bridge.protocol.token import Token
from tests.harness.signatures import make_signature

NOWHERE = "redis://user:sesame@127.0.0.1:1/0"


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


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("redis_url", 5), ("redis_url", b"redis://:sesame@host"), ("broker_url", 5), ("app", "celery"),
        ("namespace", None), ("queue", 5), ("wait_s", "5"), ("timeout_s", float("nan")), ("result_expires_s", None),
        ("allowed_packages", "mine"), ("allowed_packages", [5]), ("bridge", 50051), ("payload_bytes", 1.5),
        ("bounds", None), ("encryption", "key"), ("durability", None), ("signing_keys", "key"),
    ],
)  # fmt: skip
def test_an_argument_of_a_wrong_type_is_named_with_what_to_give(name: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=rf"^{name} of a Fleet is .*; got .*\. Give {name}=.*\.$") as refused:
        Fleet(**{name: value})
    assert "sesame" not in str(refused.value)


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


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("program", None),
        ("priority", 10),
        ("priority", 5.5),
        ("priority", "5"),
        ("deadline", float("nan")),
        ("deadline", "5"),
        ("idempotency_key", ""),
        ("idempotency_key", 5),
        ("idempotency_key", "\ud800"),
        ("key", ""),
        ("key", "k" * 2_000),
        ("attributes", {"plan": [1]}),
        ("at_least", "no token"),
        ("at_least", 5),
        ("exactly", "5.x"),
        ("max_staleness", -1),
        ("max_staleness", "x"),
        ("outage", "serve"),
    ],
)
def test_an_option_that_cant_be_is_refused_by_its_name(option: str, value: Any) -> None:
    given: dict[str, Any] = {"program": "qa", "inputs": {}, option: value}
    with pytest.raises(SubmitOptionError) as refused:
        Fleet(NOWHERE).submit(**given)
    assert refused.value.option == option
    assert str(refused.value).startswith(f"The prediction's option '{option}' is refused: ")
    assert type(refused.value)(*refused.value.args).args == refused.value.args


def test_inputs_are_checked_before_anything_is_sent() -> None:
    fleet = Fleet(NOWHERE)
    wrong: Any = "why?"
    with pytest.raises(InputError, match="not str"):
        fleet.submit("qa", wrong)
    with pytest.raises(InputError, match="not str"):
        fleet.signature("qa", wrong)


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


@pytest.mark.parametrize("session", ["", "  ", "\n", "x" * 513, 7, None, "\ud83d"])
def test_what_cannot_name_a_session_is_refused_before_anything_is_sent(session: Any) -> None:
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
        (make_signature("a -> b"), r"it is the signature .*; give a module of it: dspy.Predict\("),
        (None, "not NoneType"),
        (3, "not int"),
        (lambda: None, "not function"),
        (dspy.Prediction(a=1), "not Prediction"),
    ],
)
def test_what_is_no_program_is_refused_with_advice(given: Any, advice: str) -> None:
    """``register("c", dspy.Predict)``."""
    with pytest.raises(ProgramSpecError, match=rf"The spec of program 'c' is refused at the whole: .*{advice}"):
        Fleet(NOWHERE).register("c", given)


@pytest.mark.parametrize(
    "url", ["localhost", "localhost:6379", "http://x", "redis://h:port/0", "redis://h/x", "rediss://h/0x1", "ftp://h"]
)
def test_what_is_no_redis_url_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"Can't read the Redis URL .*; it looks like redis://host:6379/0"):
        Fleet(url)
