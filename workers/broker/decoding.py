"""Decoding of claimed messages before they reach a consumer.

A message with an ETA is delayed without taking up prefetch room; an unreadable one is dead-lettered, where kombu and
Celery would end the worker or drop it.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import Any, Protocol

from workers.broker import message as envelope
from workers.broker import settlement
from workers.broker.leases import LeaseTable
from workers.broker.message import UnreadableMessageError
from workers.broker.settlement import Settlement

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ClaimedMessage:
    """A message as the broker delivered it.

    Attributes:
        queue: the consumer's queue.
        place: the Redis list that it came from.
        raw: the encoded message.
        tag: the delivery tag of its claim.
        recorded: whether the broker holds it until it is acknowledged.
    """

    queue: str
    place: str
    raw: bytes
    tag: str
    recorded: bool


class DeliveringChannel(Protocol):
    """What delivery needs of a channel."""

    @property
    def leases(self) -> LeaseTable:
        """This process's leases on the broker."""
        ...

    def settle(self, settled: Settlement) -> None:
        """Settle a claim."""
        ...


def decode_delivery(channel: DeliveringChannel, claimed: ClaimedMessage) -> Any:
    """Return the kombu message for the consumer, or None if it was delayed or dead-lettered."""
    payload = None
    try:
        payload = envelope.parse(claimed.raw)
        if claimed.recorded and _delay_until_due(channel, claimed, payload):
            return None
        message = envelope.to_kombu_message(channel, payload, claimed.tag)
    except UnreadableMessageError as exc:
        what = str(exc).partition(":")[0]  # the rest may quote the message
        logger.error("Unreadable message in %r, moved to the dead-letter list: %s", claimed.place, what)
        if claimed.recorded:
            known = envelope.summarize(payload) if payload else None
            channel.settle(settlement.dead_letter(claimed.tag, claimed.place, "unreadable", str(exc), known))
        return None
    if claimed.recorded:
        channel.leases.add(claimed.tag, claimed.place, payload)
    return message


def _delay_until_due(channel: DeliveringChannel, claimed: ClaimedMessage, payload: dict[str, Any]) -> bool:
    due_s = envelope.eta_s(payload)
    if due_s is None or due_s - time.time() <= channel.leases.settings.delay_from_s:
        return False
    channel.settle(settlement.delay(claimed.tag, due_s))
    return True
