"""How a dead letter's message is shown: its parts on lines of their own, and its arguments as they were given."""

from __future__ import annotations

import base64
import json

import pytest

from workers.gateway.console.pages.dead_letters import format_message


def message(body: bytes) -> str:
    return json.dumps({"body": base64.b64encode(body).decode(), "headers": {"task": "tasks.predict"}})


def test_a_message_is_shown_with_the_arguments_of_its_task() -> None:
    text, arguments = format_message(message(b'[["\\u00fcber"], {"n": 1}, {"chain": null}]'))
    assert '\n  "headers": {\n    "task": "tasks.predict"\n  }\n' in text
    assert json.loads(arguments) == {"args": ["über"], "kwargs": {"n": 1}}
    assert "über" in arguments


@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"7", b"{}", b"[" * 100_000])
def test_a_message_whose_arguments_can_not_be_read_is_shown_without(body: bytes) -> None:
    text, arguments = format_message(message(body))
    assert (json.loads(text)["headers"], arguments) == ({"task": "tasks.predict"}, "")


@pytest.mark.parametrize("text", ["", "no JSON", "7", "x" * 1_000_001])
def test_what_is_no_message_is_shown_as_it_is(text: str) -> None:
    assert format_message(text) == (text, "")


@pytest.mark.parametrize("text", ["[1]", '{"body": 7}', '{"body": "W1tdLCB7fV0=?"}'])
def test_a_message_without_a_body_is_shown_all_the_same(text: str) -> None:
    shown, arguments = format_message(text)
    assert (json.loads(shown), arguments) == (json.loads(text), "")
