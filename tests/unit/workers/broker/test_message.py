"""The envelope: what is read of a message, and how it is marked before it goes back."""

from __future__ import annotations

import json
from typing import Any

import pytest

from workers.broker import message as envelope
from workers.broker.message import UnreadableMessageError


def payload(**properties: Any) -> dict[str, Any]:
    return {"body": "MQ==", "headers": {"task": "t", "id": "7"}, "properties": {"delivery_info": {}, **properties}}


def test_an_envelope_is_read_as_it_was_sent() -> None:
    assert envelope.parse(json.dumps(payload(priority=3)).encode()) == payload(priority=3)


def test_kombus_typed_values_are_read_as_kombu_does() -> None:
    typed = payload() | {"headers": {"at": {"__type__": "datetime", "__value__": "2030-01-01T00:00:00+00:00"}}}
    assert envelope.parse(json.dumps(typed).encode())["headers"]["at"].year == 2030


@pytest.mark.parametrize("raw", [b"", b"\xff", b"7", b"[]", b'{"properties": 1}', b'{"properties": {}}', b"[" * 99_999])
def test_anything_else_is_unreadable(raw: bytes) -> None:
    with pytest.raises(UnreadableMessageError, match="Error: "):
        envelope.parse(raw)


@pytest.mark.parametrize(("properties", "count"), [({}, 1), ({"deliveries": 4}, 4), ({"deliveries": "many"}, 1)])
def test_a_message_counts_its_deliveries(properties: dict[str, Any], count: int) -> None:
    assert envelope.count_deliveries(payload(**properties)) == count


def test_only_a_lost_worker_is_counted() -> None:
    assert json.loads(envelope.encode_redelivery(payload()))["properties"].get("deliveries", 1) == 1
    lost = json.loads(envelope.encode_redelivery(payload(deliveries=2), lost=True))
    assert lost["properties"]["deliveries"] == 3
    assert lost["headers"]["redelivered"]
    assert lost["properties"]["delivery_info"]["redelivered"]


def test_a_time_without_a_zone_is_left_to_celery() -> None:
    assert envelope.eta_s({"headers": {"eta": "2030-01-01T00:00:00+00:00"}}) == 1_893_456_000
    for eta in (None, 7, "tomorrow", "2030-01-01T00:00:00"):
        assert envelope.eta_s({"headers": {"eta": eta}}) is None
    assert envelope.eta_s({"headers": None}) is None
