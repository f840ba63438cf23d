"""Claims messages for a channel's consumers, many per round trip and without blocking, and decodes them.

A message with an ETA is delayed without taking up prefetch room; an unreadable one is dead-lettered, where kombu and
Celery would end the worker or drop it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from workers.broker import message as envelope
from workers.broker import settlement
from workers.broker.leases import LeaseTable
from workers.broker.message import UnreadableMessageError
from workers.broker.qos import QoS
from workers.broker.settlement import Settlement
from workers.broker.wire import ClaimConnection

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


# With client tracking, polling only covers notifications that were lost.
_LOOK_S, _POLL_S = 1.0, 0.1
# Backoff after an error reply, such as of a server that is full or still loading.
_REFUSAL_BACKOFF_S = 1.0
_CLOSE_TIMEOUT_S = 1.0
# Minimum pause between two claims of a worker with an event loop, so that a trickle of messages is batched.
_MIN_CLAIM_INTERVAL_S = 0.003

QueueList = tuple[str, str]
"""A queue and one of its Redis lists."""


class ClaimingChannel(DeliveringChannel, Protocol):
    """What claiming needs of a channel, beyond delivery.

    Attributes:
        claim_limit: messages per round trip.
        connection: kombu's transport, with the event loop's ``cycle``.
        connection_errors: the errors of a lost connection.
        priority_steps: the priorities that have a list of their own.
        qos: the messages that are delivered and not settled.
    """

    claim_limit: int
    connection: Any
    connection_errors: tuple[type[Exception], ...]
    priority_steps: list[int]
    qos: QoS

    def next_queues(self, count: int) -> list[str]:
        """Return the next ``count`` queues in the order in which they are served."""
        ...

    def rotate_queue(self, queue: str) -> None:
        """Move a queue that was served to the end of the round robin."""
        ...

    def list_key(self, queue: str, step: int) -> str:
        """Return the Redis list of a queue's messages of one priority step."""
        ...

    def build_claim(
        self, lists: Sequence[QueueList], recorded: Sequence[bool], room: int
    ) -> tuple[int, list[Any], list[Any]]:
        """Return the first claim's number, and the keys and arguments of the claim script."""
        ...


class Claimer:
    """Claims messages for the consumers of one channel.

    Args:
        channel: the channel of the consumers.
        wire: the connection that claims are sent on.
    """

    def __init__(self, channel: ClaimingChannel, wire: ClaimConnection) -> None:
        self.wire = wire
        self.answered_at = time.monotonic()
        self.last_full_at = self.answered_at
        self._channel = channel
        self._consumers: dict[str, tuple[Callable[[Any], Any], bool]] = {}
        self._claiming = False
        self._has_more = False
        self._closing = False
        self._poll_at = 0.0
        self._wakes_at = 0.0
        self._delivered_count = 0

    @property
    def active(self) -> bool:
        """Whether it has consumers or an open connection."""
        return bool(self._consumers) or self.wire.open

    @property
    def poll_in_s(self) -> float:
        """Seconds until the next poll, if there is room."""
        return max(0.0, self._poll_at - time.monotonic())

    def consume(self, queue: str, callback: Callable[[Any], Any], *, recorded: bool) -> None:
        """Start claiming for a consumer."""
        self._consumers[queue] = (callback, recorded)
        self._has_more = True

    def cancel(self, queue: str) -> None:
        """Stop claiming for a consumer."""
        self._consumers.pop(queue, None)

    def flush(self) -> None:
        """Send pending settlements, and a claim if there is room and messages may be waiting.

        Raises:
            ConnectionError, TimeoutError: the broker is unreachable (redis-py's errors).
        """
        if self._claiming:
            return
        room = self._channel.qos.free_slots(self._channel.claim_limit) if self._consumers else 0
        if room and not self._has_more and self.wire.notified and self._coalesce():
            return
        if room and (self._has_more or self.wire.notified or time.monotonic() >= self._poll_at):
            self._claim(room)
        elif self._channel.leases.has_unsent:
            self._settle(self._channel.leases.take_unsent())

    def _coalesce(self) -> bool:
        """Check whether the next claim should wait to be batched, and schedule it if so."""
        now, due = time.monotonic(), self.answered_at + _MIN_CLAIM_INTERVAL_S
        if now >= due or self._channel.connection.cycle.hub is None:
            return False
        if self._wakes_at < due:
            self._wakes_at = due
            self._channel.connection.cycle.wake_in(due - now)
        return True

    def read(self) -> int:
        """Process the replies that have arrived and return how many messages were delivered.

        Raises:
            ConnectionError, TimeoutError: the broker is unreachable (redis-py's errors).
        """
        self._delivered_count = 0
        self.wire.read()
        return self._delivered_count

    def close(self) -> bool:
        """Stop delivering and close the connection; return whether all replies arrived."""
        self._closing = True
        try:
            self.wire.drain(_CLOSE_TIMEOUT_S)
        except (*self._channel.connection_errors, ResponseError) as exc:
            logger.debug("The claim connection was lost before it was closed: %s", exc)
            self.wire.connection.disconnect()
            return False
        was_open = self.wire.open
        self.wire.connection.disconnect()
        return was_open

    def stalled_lists(self, seconds: float) -> list[str]:
        """Return the lists to claim from if no reply arrived within the last ``seconds``, otherwise none."""
        now = time.monotonic()
        if not self._consumers or not self._channel.qos.free_slots(1):
            # Nothing to claim for, so it can't be stalled.
            self.last_full_at = now
            return []
        if now - max(self.answered_at, self.last_full_at) < seconds:
            return []
        return [place for _, place in self._lists()]

    def _claim(self, room: int) -> None:
        holding = self._channel.leases
        ended = holding.take_unsent()
        acks = [settlement for settlement in ended if settlement.verb == "ack"]
        if len(acks) < len(ended):
            self._settle([settlement for settlement in ended if settlement.verb != "ack"])
        lists = self._lists()
        recorded = [self._consumers[queue][1] for queue, _ in lists]
        first, keys, args = self._channel.build_claim(lists, recorded, room)

        def on_reply(reply: Any) -> None:
            self._claiming = False
            if isinstance(reply, ResponseError):
                self._handle_refusal(reply)
                return
            holding.confirm(acks)
            self._handle_claim(lists, recorded, first, reply)

        self._claiming, self._has_more, self.wire.notified = True, False, False
        self.wire.send("claim", keys, [*args, *(settlement.tag for settlement in acks)], on_reply)

    def _settle(self, ended: Sequence[Settlement]) -> None:
        holding = self._channel.leases

        def on_reply(reply: Any) -> None:
            if isinstance(reply, ResponseError):
                self._handle_refusal(reply)
                return
            holding.confirm(ended)

        self.wire.send("settle", holding.settle_keys, settlement.encode(ended), on_reply)

    def _lists(self) -> list[QueueList]:
        channel = self._channel
        queues = [queue for queue in channel.next_queues(len(self._consumers)) if queue in self._consumers]
        return [(queue, channel.list_key(queue, step)) for step in reversed(channel.priority_steps) for queue in queues]

    def _handle_claim(
        self, lists: Sequence[QueueList], recorded: Sequence[bool], first: int, answer: Sequence[Any]
    ) -> None:
        self.answered_at = time.monotonic()
        self._has_more = answer[0] > 0
        wait_s = _LOOK_S if self.wire.supports_tracking else _POLL_S
        if 0 <= answer[1] < wait_s * 1000:
            wait_s = answer[1] / 1000
            self._channel.connection.cycle.wake_in(wait_s)
        self._poll_at = self.answered_at + wait_s
        places = answer[2::2]
        if places:
            self._channel.rotate_queue(lists[int(places[-1])][0])
        worker = self._channel.leases.worker
        self._deliver_all([
            ClaimedMessage(lists[int(at)][0], lists[int(at)][1], raw, f"{worker}.{number}", recorded[at])
            for number, (at, raw) in enumerate(zip(places, answer[3::2], strict=True), first)
        ])  # fmt: skip

    def _deliver_all(self, came: Sequence[ClaimedMessage]) -> None:
        done = 0
        try:
            for claimed in came:
                done += 1
                self._deliver(claimed)
        finally:
            # If a consumer raises, requeue the messages that weren't delivered yet.
            for claimed in came[done:]:
                self._requeue(claimed)

    def _deliver(self, claimed: ClaimedMessage) -> None:
        callback, _ = self._consumers.get(claimed.queue, (None, False))
        if callback is None or self._closing:
            self._requeue(claimed)
            return
        message = decode_delivery(self._channel, claimed)
        if message is None:
            return
        if claimed.recorded:
            self._channel.qos.append(message, claimed.tag)
        self._delivered_count += 1
        try:
            callback(message)
        except (OSError, RedisError):
            raise
        except Exception as exc:  # noqa: BLE001
            # Celery fails on some well-formed messages. They must neither end the worker nor be redelivered for ever.
            kind = type(exc).__name__  # its text may quote the message
            logger.error(
                "The consumer of %r failed on a message, moved to the dead-letter list: %s", claimed.queue, kind
            )
            if claimed.recorded:
                known = envelope.summarize(message._raw)
                reason = f"{type(exc).__name__}: {exc}"
                self._channel.qos.settle(
                    settlement.dead_letter(claimed.tag, claimed.place, "unreadable", reason, known)
                )

    def _requeue(self, claimed: ClaimedMessage) -> None:
        if claimed.recorded:
            self._channel.leases.settle(Settlement(claimed.tag, "front", claimed.place))

    def _handle_refusal(self, error: ResponseError) -> None:
        # Nothing was claimed. The keeper sends the settlements of this round trip again.
        logger.error("Claiming messages failed, error reply from the broker: %s", error)
        self._poll_at = time.monotonic() + _REFUSAL_BACKOFF_S
        self.wire.notified = False
        if isinstance(error, NoScriptError | ReadOnlyError):
            # Scripts were flushed, or this server has become a replica: reconnect.
            self.wire.abort()
