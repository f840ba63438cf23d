"""Claimer: how a channel's consumers get their messages, many in one round trip and without ever waiting for one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from workers.broker import message as envelope
from workers.broker import settlement
from workers.broker.decoding import ClaimedMessage, decode_delivery
from workers.broker.settlement import Settlement
from workers.broker.wire import ClaimConnection

if TYPE_CHECKING:
    from workers.broker.channel import Channel

logger = logging.getLogger(__name__)

# Where the line rings, a look of one's own is for a ring that was lost.
_LOOK_S, _POLL_S = 1.0, 0.1
# A server that refuses, since it is full or still loading, is asked again after a while.
_REFUSAL_BACKOFF_S = 1.0
_CLOSE_TIMEOUT_S = 1.0
# Between two claims of a worker with an event loop: a trickle of messages isn't worth a round trip for each.
_MIN_CLAIM_INTERVAL_S = 0.003

QueueList = tuple[str, str]
"""A queue, and one of the lists that its messages wait in."""


class Claimer:
    """Claims for the consumers of one channel.

    Args:
        channel: whose consumers they are.
        line: the connection to claim by.
    """

    def __init__(self, channel: Channel, wire: ClaimConnection) -> None:
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
        """Whether there is anything to send or to receive."""
        return bool(self._consumers) or self.wire.open

    @property
    def poll_in_s(self) -> float:
        """Seconds until it looks by itself, if there is room."""
        return max(0.0, self._poll_at - time.monotonic())

    def consume(self, queue: str, callback: Callable[[Any], Any], *, recorded: bool) -> None:
        """Claims for a consumer from now on."""
        self._consumers[queue] = (callback, recorded)
        self._has_more = True

    def cancel(self, queue: str) -> None:
        """Claims for a consumer no longer."""
        self._consumers.pop(queue, None)

    def flush(self) -> None:
        """Sends what is to be sent: the ends of claims, and a claim if there is room and there may be messages.

        Raises:
            ConnectionError, TimeoutError: of redis-py; the broker is away.
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
        """Whether the last claim was just now, so that the next one comes with what else there is to be told."""
        now, due = time.monotonic(), self.answered_at + _MIN_CLAIM_INTERVAL_S
        if now >= due or self._channel.connection.cycle.hub is None:
            return False
        if self._wakes_at < due:
            self._wakes_at = due
            self._channel.connection.cycle.wake_in(due - now)
        return True

    def read(self) -> int:
        """Takes the answers that have come, and returns how many messages were given out.

        Raises:
            ConnectionError, TimeoutError: of redis-py; the broker is away.
        """
        self._delivered_count = 0
        self.wire.read()
        return self._delivered_count

    def close(self) -> bool:
        """Gives out nothing any more and closes the line; returns whether the broker answered to the end."""
        self._closing = True
        try:
            self.wire.drain(_CLOSE_TIMEOUT_S)
        except (*self._channel.connection_errors, ResponseError) as broken:
            logger.debug("The line broke before it was closed: %s", broken)
            self.wire.connection.disconnect()
            return False
        was_open = self.wire.open
        self.wire.connection.disconnect()
        return was_open

    def stalled_lists(self, seconds: float) -> list[str]:
        """Returns the lists that it should have claimed from in the last so many seconds, if it got no answer."""
        now = time.monotonic()
        if not self._consumers or not self._channel.qos.free_slots(1):
            # It had nothing to claim for, and can't be late before it has.
            self.last_full_at = now
            return []
        if now - max(self.answered_at, self.last_full_at) < seconds:
            return []
        return [place for _, place in self._lists()]

    def _claim(self, room: int) -> None:
        holding = self._channel.leases
        ended = holding.take_unsent()
        acks = [one for one in ended if one.verb == "ack"]
        if len(acks) < len(ended):
            self._settle([one for one in ended if one.verb != "ack"])
        lists = self._lists()
        recorded = [self._consumers[queue][1] for queue, _ in lists]
        first, keys, args = self._channel.build_claim(lists, recorded, room)

        def answered(answer: Any) -> None:
            self._claiming = False
            if isinstance(answer, ResponseError):
                self._handle_refusal(answer)
                return
            holding.confirm(acks)
            self._handle_claim(lists, recorded, first, answer)

        self._claiming, self._has_more, self.wire.notified = True, False, False
        self.wire.send("claim", keys, [*args, *(one.tag for one in acks)], answered)

    def _settle(self, ended: Sequence[Settlement]) -> None:
        holding = self._channel.leases

        def answered(answer: Any) -> None:
            if isinstance(answer, ResponseError):
                self._handle_refusal(answer)
                return
            holding.confirm(ended)

        self.wire.send("settle", holding.settle_keys, settlement.encode(ended), answered)

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
            # An error of a consumer's own must not leave messages behind that nobody was given.
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
        except Exception as error:  # noqa: BLE001
            # Celery chokes on some well formed messages. They must not end the worker, nor come again and again.
            kind = type(error).__name__  # its text may quote the message
            logger.error("The consumer of %r can't take a message, which is given up: %s", claimed.queue, kind)
            if claimed.recorded:
                known = envelope.summarize(message._raw)
                reason = f"{type(error).__name__}: {error}"
                self._channel.qos.settle(
                    settlement.dead_letter(claimed.tag, claimed.place, "unreadable", reason, known)
                )

    def _requeue(self, claimed: ClaimedMessage) -> None:
        if claimed.recorded:
            self._channel.leases.settle(Settlement(claimed.tag, "front", claimed.place))

    def _handle_refusal(self, error: ResponseError) -> None:
        # Nothing was claimed, and the ends that came along are told again by the keeper.
        logger.error("The broker refuses to give out messages: %s", error)
        self._poll_at = time.monotonic() + _REFUSAL_BACKOFF_S
        self.wire.notified = False
        if isinstance(error, NoScriptError | ReadOnlyError):
            # Scripts were flushed, or this server is a replica by now: a new connection finds what there is.
            self.wire.abort()
