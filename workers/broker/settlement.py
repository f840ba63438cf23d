"""Settlement: how one claim ends. It can be sent any number of times, since only the first finds the claim held."""

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
    """One claim's end, as ``settling.lua`` takes it.

    Attributes:
        tag: the claim.
        verb: how it ends.
        place: a list, or a millisecond of Unix time.
        data: what is written; see the script.
        at: this process's clock at which it was decided.
    """

    tag: str
    verb: Verb
    place: str = ""
    data: bytes = b""
    decided_at: float = field(default_factory=time.monotonic)


def ack(tag: str) -> Settlement:
    """The message is done with."""
    return Settlement(tag, "ack")


def requeue_tail(tag: str, place: str, payload: Payload) -> Settlement:
    """The message goes to the end of its list: somebody may want it later."""
    return Settlement(tag, "back", place, envelope.encode_redelivery(payload))


def requeue_head(tag: str, place: str, payload: Payload) -> Settlement:
    """The message goes to the front of its list: it has waited already."""
    return Settlement(tag, "front", place, envelope.encode_redelivery(payload))


def release(tag: str, record: bytes) -> Settlement:
    """The message of a record goes to the front of its list as it was."""
    return Settlement(tag, "front", record.partition(b"\n")[0].decode())


def delay(tag: str, due_s: float) -> Settlement:
    """The message is put aside until it is due."""
    return Settlement(tag, "delay", str(round(due_s * 1000)))


def dead_letter(tag: str, place: str, reason: str, error: str, known: Mapping[str, Any] | None = None) -> Settlement:
    """The message is given up; ``known`` is what an operator is told of it."""
    now = time.time()
    told = {"reason": reason, "error": error, "list": place, "at": now, **(known or {})}
    return Settlement(tag, "dead", str(round(now * 1000)), json.dumps(told).encode())


def process_died(tag: str, place: str, payload: Payload, error: str, max_deliveries: int) -> Settlement:
    """The process that ran the message's task died: others get it, unless it has taken too many with it."""
    if envelope.count_deliveries(payload) >= max_deliveries:
        return dead_letter(tag, place, "lost", error, envelope.summarize(payload))
    return Settlement(tag, "front", place, envelope.encode_redelivery(payload, lost=True))


def worker_lost(tag: str, place: str, raw: bytes, error: str, max_deliveries: int) -> Settlement:
    """The message's worker died: others get it, unless it has taken too many workers with it."""
    try:
        payload = envelope.parse(raw)
    except envelope.UnreadableMessage as unreadable:
        return dead_letter(tag, place, "unreadable", str(unreadable))
    return process_died(tag, place, payload, error, max_deliveries)


def encode(settlements: Iterable[Settlement]) -> list[Any]:
    """Returns settlements as a script's arguments."""
    return [part for one in settlements for part in (one.verb, one.tag, one.place, one.data)]
