"""Settlements: how claims end. Sending one again is harmless, since only the first finds the claim held."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from workers.broker import message as envelope

Verb = Literal["ack", "back", "front", "delay", "dead"]
Payload = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Settlement:
    """The settlement of one claim, as ``settling.lua`` takes it.

    Attributes:
        tag: the delivery tag of the claim.
        verb: what to do with the message.
        place: a Redis list, or a Unix time in milliseconds.
        data: the bytes to write; see the script.
        decided_at: monotonic time at which it was decided.
    """

    tag: str
    verb: Verb
    place: str = ""
    data: bytes = b""
    decided_at: float = field(default_factory=time.monotonic)


def ack(tag: str) -> Settlement:
    """Acknowledge the message."""
    return Settlement(tag, "ack")


def requeue_tail(tag: str, place: str, payload: Payload) -> Settlement:
    """Requeue the message at the end of its list."""
    return Settlement(tag, "back", place, envelope.encode_redelivery(payload))


def requeue_head(tag: str, place: str, payload: Payload) -> Settlement:
    """Requeue the message at the front of its list, as it has waited already."""
    return Settlement(tag, "front", place, envelope.encode_redelivery(payload))


def release(tag: str, record: bytes) -> Settlement:
    """Return the message of a record to the front of its list, unchanged."""
    return Settlement(tag, "front", record.partition(b"\n")[0].decode())


def delay(tag: str, due_s: float) -> Settlement:
    """Delay the message until it is due."""
    return Settlement(tag, "delay", str(round(due_s * 1000)))


def dead_letter(tag: str, place: str, reason: str, error: str, known: Mapping[str, Any] | None = None) -> Settlement:
    """Move the message to the dead-letter list; ``known`` is its summary for operators."""
    now = time.time()
    entry = {"reason": reason, "error": error, "list": place, "at": now, **(known or {})}
    return Settlement(tag, "dead", str(round(now * 1000)), json.dumps(entry).encode())


def process_died(tag: str, place: str, payload: Payload, error: str, max_deliveries: int) -> Settlement:
    """Redeliver a message whose process died, or dead-letter it after too many deliveries."""
    if envelope.count_deliveries(payload) >= max_deliveries:
        return dead_letter(tag, place, "lost", error, envelope.summarize(payload))
    return Settlement(tag, "front", place, envelope.encode_redelivery(payload, lost=True))


def worker_lost(tag: str, place: str, raw: bytes, error: str, max_deliveries: int) -> Settlement:
    """Redeliver a message whose worker died, or dead-letter it after too many deliveries."""
    try:
        payload = envelope.parse(raw)
    except envelope.UnreadableMessageError as exc:
        return dead_letter(tag, place, "unreadable", str(exc))
    return process_died(tag, place, payload, error, max_deliveries)


def encode(settlements: Iterable[Settlement]) -> list[Any]:
    """Return settlements as script arguments."""
    return [part for item in settlements for part in (item.verb, item.tag, item.place, item.data)]
