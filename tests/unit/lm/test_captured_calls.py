"""Captured LM calls: what is kept of them, in which order, and within which bounds."""

from __future__ import annotations

import base64
import json
import os
from dataclasses import replace
from typing import Any

import pytest

from snakepit_bridge.costs.usage import LMUsage
from snakepit_bridge.encryption.cipher import Cipher
from snakepit_bridge.encryption.keys import KeyRing
from snakepit_bridge.exceptions import DecryptionError
from snakepit_bridge.lm.captured_calls import (
    MAX_CAPTURED_BYTES,
    MAX_CAPTURED_CALLS,
    CallCapture,
    CapturedCall,
    CapturedCalls,
)

KEY = base64.b64encode(os.urandom(32)).decode()
USAGE = LMUsage(calls=1, input_tokens=7, output_tokens=2, cost_pico=5)


def message(text: str, role: str = "user") -> dict[str, Any]:
    return {"role": role, "parts": [{"type": "text", "content": text}]}


def call(text: str = "why?", *, at: float = 1.5) -> CapturedCall:
    answer = {**message("because", "assistant"), "finish_reason": "stop"}
    return CapturedCall("demo", "demo-1", at, 0.25, USAGE, [message(text)], answer)


def test_calls_are_kept_in_the_order_in_which_they_began() -> None:
    capture = CallCapture("task", "user-1")
    failed = replace(call("then", at=3.0), answer=None, error="server")
    for each in (failed, call("second", at=2.0), call("first", at=1.0)):
        capture.add(each)
    found = CapturedCalls.decode("task", capture.encode())
    assert found == CapturedCalls("user-1", [call("first", at=1.0), call("second", at=2.0), failed])


def test_a_call_whose_texts_are_too_large_is_kept_without_them() -> None:
    capture = CallCapture("task", "s")
    for number, text in enumerate(("a", "b" * MAX_CAPTURED_BYTES, "c")):
        capture.add(call(text, at=number))
    first, large, last = CapturedCalls.decode("task", capture.encode()).calls
    assert (first.messages, last.messages) == ([message("a")], [message("c")])
    assert (large.is_cut, large.messages, large.answer, large.usage) == (True, [], None, USAGE)
    assert len(capture.encode()) < 2_000


def test_a_program_without_end_keeps_its_first_calls() -> None:
    capture = CallCapture("task", "s")
    for number in range(MAX_CAPTURED_CALLS + 3):
        capture.add(call(str(number), at=number))
    found = CapturedCalls.decode("task", capture.encode())
    assert (len(found.calls), found.omitted) == (MAX_CAPTURED_CALLS, 3)


def test_what_cannot_be_json_costs_no_answer() -> None:
    deep: Any = []
    for _ in range(100_000):
        deep = [deep]
    capture = CallCapture("task", "s")
    capture.add(replace(call(), messages=[{"role": "user", "parts": deep}]))
    assert [found.is_cut for found in CapturedCalls.decode("task", capture.encode()).calls] == [True]


@pytest.mark.parametrize("text", ["\ud800 half", "ü 𝄞 \u2028 \u202e", '"\\', "\x00"])
def test_odd_texts_are_kept(text: str) -> None:
    capture = CallCapture("task", text)
    capture.add(call(text))
    [found] = CapturedCalls.decode("task", capture.encode()).calls
    assert found.messages == [message(text.replace("\ud800", "\ufffd"))]


def test_with_keys_they_are_encrypted_for_their_prediction() -> None:
    cipher = Cipher("dspex", KeyRing.parse(f"k1:{KEY} digests:{KEY}"))
    capture = CallCapture("task", "s", cipher)
    capture.add(call("a secret"))
    stored = capture.encode()
    assert b"secret" not in stored
    assert CapturedCalls.decode("task", stored, cipher).calls == [call("a secret")]
    with pytest.raises(DecryptionError):
        CapturedCalls.decode("another", stored, cipher)


def test_what_a_newer_worker_adds_is_ignored() -> None:
    form = {**call().encode(), "added": 1}
    stored = json.dumps({"session": "s", "omitted": 0, "calls": [form], "added": 1}).encode()
    assert CapturedCalls.decode("task", stored).calls == [call()]
