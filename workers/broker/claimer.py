"""Claimer: how a channel's consumers get their messages, many in one round trip and without ever waiting for one."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from redis.exceptions import NoScriptError, ReadOnlyError, RedisError, ResponseError

from workers.broker import message as envelope
from workers.broker import settlement
from workers.broker.decoding import Claimed, opened
from workers.broker.settlement import Settlement
from workers.broker.wire import ClaimConnection

if TYPE_CHECKING:
    from workers.broker.channel import Channel

logger = logging.getLogger(__name__)

# Where the line rings, a look of one's own is for a ring that was lost.
_LOOK_S, _POLL_S = 1.0, 0.1
# A server that refuses, since it is full or still loading, is asked again after a while.
_REFUSED_S = 1.0
_CLOSE_S = 1.0
# Between two claims of a worker with an event loop: a trickle of messages isn't worth a round trip for each.
_APART_S = 0.003

List = tuple[str, str]
"""A queue, and one of the lists that its messages wait in."""


class Claimer:
    """Claims for the consumers of one channel.

    Args:
        channel: whose consumers they are.
        line: the connection to claim by.
    """

    def __init__(self, channel: Channel, line: ClaimConnection) -> None:
        self.line = line
        self.answered_at = time.monotonic()
        self.had_no_room_at = self.answered_at
        self._channel = channel
        self._consumers: dict[str, tuple[Callable[[Any], Any], bool]] = {}
        self._claiming = False
        self._more = False
        self._closing = False
        self._look_at = 0.0
        self._wakes_at = 0.0
        self._given_out = 0

    @property
    def used(self) -> bool:
        """Whether there is anything to send or to receive."""
        return bool(self._consumers) or self.line.open

    @property
    def look_in_s(self) -> float:
        """Seconds until it looks by itself, if there is room."""
        return max(0.0, self._look_at - time.monotonic())

    def consume(self, queue: str, callback: Callable[[Any], Any], *, recorded: bool) -> None:
        """Claims for a consumer from now on."""
        self._consumers[queue] = (callback, recorded)
        self._more = True

    def cancel(self, queue: str) -> None:
        """Claims for a consumer no longer."""
        self._consumers.pop(queue, None)

    def pump(self) -> None:
        """Sends what is to be sent: the ends of claims, and a claim if there is room and there may be messages.

        Raises:
            ConnectionError, TimeoutError: of redis-py; the broker is away.
        """
        if self._claiming:
            return
        room = self._channel.qos.room(self._channel.claim_limit) if self._consumers else 0
        if room and not self._more and self.line.rung and self._soon():
            return
        if room and (self._more or self.line.rung or time.monotonic() >= self._look_at):
            self._claim(room)
        elif self._channel.holding.has_fresh:
            self._tell(self._channel.holding.fresh())

    def _soon(self) -> bool:
        """Whether the last claim was just now, so that the next one comes with what else there is to be told."""
        now, due = time.monotonic(), self.answered_at + _APART_S
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
        self._given_out = 0
        self.line.read()
        return self._given_out

    def close(self) -> bool:
        """Gives out nothing any more and closes the line; returns whether the broker answered to the end."""
        self._closing = True
        try:
            self.line.finish(_CLOSE_S)
        except (*self._channel.connection_errors, ResponseError) as broken:
            logger.debug("The line broke before it was closed: %s", broken)
            self.line.connection.disconnect()
            return False
        was_open = self.line.open
        self.line.connection.disconnect()
        return was_open

    def stalled(self, seconds: float) -> list[str]:
        """Returns the lists that it should have claimed from in the last so many seconds, if it got no answer."""
        now = time.monotonic()
        if not self._consumers or not self._channel.qos.room(1):
            # It had nothing to claim for, and can't be late before it has.
            self.had_no_room_at = now
            return []
        if now - max(self.answered_at, self.had_no_room_at) < seconds:
            return []
        return [place for _, place in self._lists()]

    def _claim(self, room: int) -> None:
        holding = self._channel.holding
        ended = holding.fresh()
        acks = [one for one in ended if one.verb == "ack"]
        if len(acks) < len(ended):
            self._tell([one for one in ended if one.verb != "ack"])
        lists = self._lists()
        recorded = [self._consumers[queue][1] for queue, _ in lists]
        first, keys, args = self._channel.claim(lists, recorded, room)

        def answered(answer: Any) -> None:
            self._claiming = False
            if isinstance(answer, ResponseError):
                self._refused(answer)
                return
            holding.confirm(acks)
            self._claimed(lists, recorded, first, answer)

        self._claiming, self._more, self.line.rung = True, False, False
        self.line.send("claim", keys, [*args, *(one.tag for one in acks)], answered)

    def _tell(self, ended: Sequence[Settlement]) -> None:
        holding = self._channel.holding

        def answered(answer: Any) -> None:
            if isinstance(answer, ResponseError):
                self._refused(answer)
                return
            holding.confirm(ended)

        self.line.send("settle", holding.keys, settlement.flat(ended), answered)

    def _lists(self) -> list[List]:
        channel = self._channel
        queues = [queue for queue in channel.in_order(len(self._consumers)) if queue in self._consumers]
        return [(queue, channel.place(queue, step)) for step in reversed(channel.priority_steps) for queue in queues]

    def _claimed(self, lists: Sequence[List], recorded: Sequence[bool], first: int, answer: Sequence[Any]) -> None:
        self.answered_at = time.monotonic()
        self._more = answer[0] > 0
        wait_s = _LOOK_S if self.line.rings else _POLL_S
        if 0 <= answer[1] < wait_s * 1000:
            wait_s = answer[1] / 1000
            self._channel.connection.cycle.wake_in(wait_s)
        self._look_at = self.answered_at + wait_s
        places = answer[2::2]
        if places:
            self._channel.served(lists[int(places[-1])][0])
        worker = self._channel.holding.worker
        self._give_out([
            Claimed(lists[int(at)][0], lists[int(at)][1], raw, f"{worker}.{number}", recorded[at])
            for number, (at, raw) in enumerate(zip(places, answer[3::2], strict=True), first)
        ])  # fmt: skip

    def _give_out(self, came: Sequence[Claimed]) -> None:
        done = 0
        try:
            for claimed in came:
                done += 1
                self._deliver(claimed)
        finally:
            # An error of a consumer's own must not leave messages behind that nobody was given.
            for claimed in came[done:]:
                self._return(claimed)

    def _deliver(self, claimed: Claimed) -> None:
        callback, _ = self._consumers.get(claimed.queue, (None, False))
        if callback is None or self._closing:
            self._return(claimed)
            return
        message = opened(self._channel, claimed)
        if message is None:
            return
        if claimed.recorded:
            self._channel.qos.append(message, claimed.tag)
        self._given_out += 1
        try:
            callback(message)
        except (OSError, RedisError):
            raise
        except Exception as error:  # noqa: BLE001
            # Celery chokes on some well formed messages. They must not end the worker, nor come again and again.
            kind = type(error).__name__  # its text may quote the message
            logger.error("The consumer of %r can't take a message, which is given up: %s", claimed.queue, kind)
            if claimed.recorded:
                known = envelope.told(message._raw)
                reason = f"{type(error).__name__}: {error}"
                self._channel.qos.end(settlement.dead(claimed.tag, claimed.place, "unreadable", reason, known))

    def _return(self, claimed: Claimed) -> None:
        if claimed.recorded:
            self._channel.holding.settle(Settlement(claimed.tag, "front", claimed.place))

    def _refused(self, error: ResponseError) -> None:
        # Nothing was claimed, and the ends that came along are told again by the keeper.
        logger.error("The broker refuses to give out messages: %s", error)
        self._look_at = time.monotonic() + _REFUSED_S
        self.line.rung = False
        if isinstance(error, NoScriptError | ReadOnlyError):
            # Scripts were flushed, or this server is a replica by now: a new connection finds what there is.
            self.line.break_off()
