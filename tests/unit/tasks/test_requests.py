"""What a worker reads of a message: the same for one prediction and for many, from any client and any broker."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from snakepit_bridge.exceptions import BridgeError, ConfigurationError, SubmitOptionError
from snakepit_bridge.protocol.messages import VERSION, PredictionRequest, Requirement
from snakepit_bridge.protocol.token import Token
from tasks.requests import parse_delivery, parse_request


@pytest.mark.parametrize(
    "request_",
    [
        PredictionRequest("qa", {"question": "?"}),
        PredictionRequest(
            "qa", {}, "s", Requirement("at_least", Token(5, 2)), 12.5, {"a": "b"}, 3.0, "serve_stale(60)", True
        ),
    ],
)
def test_what_a_client_says_is_what_a_worker_reads(request_: PredictionRequest) -> None:
    assert parse_request(request_.program, request_.inputs, request_.keywords(), namespace="dspex") == request_


def test_another_version_and_an_unknown_keyword_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=f"version {VERSION + 1}"):
        parse_request("qa", {}, {"v": VERSION + 1}, namespace="dspex")
    with pytest.raises(ConfigurationError, match="says colour, which this worker doesn't know"):
        parse_request("qa", {}, {"colour": "red"}, namespace="dspex")
    with pytest.raises(BridgeError, match="got 'newest'"):
        parse_request("qa", {}, {"requirement": "newest"}, namespace="dspex")
    for option, value in (("key", ""), ("attributes", [1])):
        with pytest.raises(SubmitOptionError, match=rf"option '{option}' is refused"):
            parse_request("qa", {}, {option: value}, namespace="dspex")


def task(*, task_limit_s: float | None = None, worker_limit_s: float | None = None, **request: Any) -> Any:
    fields = {"id": "t", "hostname": "w@h", "retries": 0, "headers": None, "properties": None, "delivery_info": None}
    context = SimpleNamespace(**{**fields, "timelimit": None, **request})
    app = SimpleNamespace(conf=SimpleNamespace(task_time_limit=worker_limit_s))
    return SimpleNamespace(request=context, time_limit=task_limit_s, app=app)


def test_a_message_that_says_little_is_a_first_delivery() -> None:
    found = parse_delivery(task())
    assert (found.attempt, found.deliveries, found.reply_channel, found.claim, found.sent_at) == (1, 1, "", "", 0.0)


def test_deliveries_are_counted_by_our_transport_and_guessed_of_another_broker() -> None:
    assert parse_delivery(task(properties={"deliveries": 3})).deliveries == 3
    assert parse_delivery(task(delivery_info={"redelivered": True})).deliveries == 2
    assert parse_delivery(task(properties={"deliveries": 1}, delivery_info={"redelivered": True})).deliveries == 1


def test_the_hard_limit_is_the_messages_before_the_tasks_before_the_workers() -> None:
    assert parse_delivery(task()).hard_limit_s == 0.0
    assert parse_delivery(task(worker_limit_s=30.0)).hard_limit_s == 30.0
    assert parse_delivery(task(worker_limit_s=30.0, task_limit_s=20.0)).hard_limit_s == 20.0
    assert parse_delivery(task(worker_limit_s=30.0, task_limit_s=20.0, timelimit=[10.0, None])).hard_limit_s == 10.0
    assert parse_delivery(task(worker_limit_s=30.0, timelimit=[None, 5.0])).hard_limit_s == 30.0


def test_the_reply_channel_and_the_route_are_found() -> None:
    found = parse_delivery(
        task(
            headers={"sent_at": 5.0, "reply_channel": "dspex:replies:me"},
            delivery_info={"priority": 4, "routing_key": "predictions"},
            properties={"delivery_tag": "w.7"},
            retries=2,
        )
    )
    assert (found.sent_at, found.reply_channel, found.priority, found.queue) == (
        5.0,
        "dspex:replies:me",
        4,
        "predictions",
    )
    assert (found.claim, found.attempt) == ("w.7", 3)
