"""Signatures of messages: what they cover, whose are accepted, and what each problem is called."""

from __future__ import annotations

import json
from typing import Any

import pytest

from snakepit_bridge.encryption.keys import KeyRing, generate_key
from snakepit_bridge.protocol.signatures import SIGNATURE, MessageSigner

OLD, NEW = generate_key("old"), generate_key("new")
HEADERS: dict[str, Any] = {"id": "t", "task": "tasks.predict", "sent_at": 1.25, "timelimit": [None, None], "eta": None}
BODY = b'[["why?", "qa"], {}, {}]'


def signer(*keys: str, namespace: str = "dspex") -> MessageSigner:
    return MessageSigner(namespace, KeyRing.parse(" ".join(keys)))


def signed(by: MessageSigner) -> dict[str, Any]:
    return json.loads(json.dumps({**HEADERS, SIGNATURE: by.sign(HEADERS, BODY)}))


def test_a_message_is_accepted_under_any_key_and_signed_by_the_first() -> None:
    assert signer(NEW, OLD).find_problem(signed(signer(OLD)), BODY) is None
    assert signed(signer(NEW, OLD))[SIGNATURE].startswith("new:")
    assert "key 'new', and this worker has old" in str(signer(OLD).find_problem(signed(signer(NEW)), BODY))


@pytest.mark.parametrize("header", [*HEADERS, "reply_channel"])
def test_a_changed_header_or_body_is_found(header: str) -> None:
    good, check = signed(signer(OLD)), signer(OLD)
    assert "forged, or changed" in str(check.find_problem({**good, header: "other"}, BODY))
    assert "forged, or changed" in str(check.find_problem(good, BODY + b" "))
    assert "forged, or changed" in str(signer(OLD, namespace="other").find_problem(good, BODY))


def test_what_brokers_set_on_the_way_changes_nothing() -> None:
    moved = {**signed(signer(OLD)), "redelivered": True, "dead_retry": "x", "x-death": []}
    assert signer(OLD).find_problem(moved, BODY) is None


@pytest.mark.parametrize("signature", [None, 7, [], {}])
def test_an_unsigned_message_is_told_from_a_forged_one(signature: Any) -> None:
    assert "isn't signed" in str(signer(OLD).find_problem({**HEADERS, SIGNATURE: signature}, BODY))
    for forged in ("", "old", "old:", "old:ä", "other:00"):
        assert signer(OLD).find_problem({**HEADERS, SIGNATURE: forged}, BODY)
