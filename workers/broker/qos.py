"""Prefetch and acknowledgement of a channel's messages."""

from __future__ import annotations

from typing import Any

from celery.worker import state
from kombu.transport import virtual

from workers.broker import message as envelope
from workers.broker import settlement
from workers.broker.settlement import Settlement
from workers.watchdog.pulse import PULSE

MAX_CLAIMS = 1_000
"""Maximum claims per round trip: Lua can unpack only a few thousand values."""


_REJECTED = ("rejected", "its worker rejected it")


class QoS(virtual.QoS):
    """kombu's acknowledgements, settled in the process's ``LeaseTable``."""

    channel: Any
    _delivered: Any
    _dirty: set[str]

    def free_slots(self, limit: int) -> int:
        """Return how many messages may be claimed, at most ``limit``."""
        if not self.can_consume() or PULSE.stalled_s >= self.channel.leases.settings.lease_s:
            return 0  # a worker whose event loop is blocked would only keep messages from others
        limit = min(limit, MAX_CLAIMS)
        count = self.prefetch_count
        if not count:
            return limit
        # Tasks that outlived a lost connection still occupy slots of the pool.
        occupied = len(self._delivered) - len(self._dirty) + len(self.channel.leases.detached)
        return max(0, min(limit, count - occupied))

    def ack(self, delivery_tag: str) -> None:
        """Acknowledge a message."""
        self.settle(settlement.ack(delivery_tag))

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """Requeue a message at the end of its queue, or dead-letter it."""
        leases = self.channel.leases
        held, error = leases.held.get(delivery_tag), self.channel.lost.pop(delivery_tag, None)
        if held is None or held.payload is None:
            self.settle(settlement.ack(delivery_tag))  # no longer held here; the broker will find the same
        elif error is not None:
            self.settle(
                settlement.process_died(delivery_tag, held.place, held.payload, error, leases.settings.max_deliveries)
            )
        elif requeue:
            self.settle(settlement.requeue_tail(delivery_tag, held.place, held.payload))
        else:
            known = envelope.summarize(held.payload)
            reason, problem = self.channel.rejected.pop(delivery_tag, _REJECTED)
            self.settle(settlement.dead_letter(delivery_tag, held.place, reason, problem, known))

    def restore_unacked(self) -> list[Any]:
        """Requeue delivered messages that aren't running; running ones are acknowledged later, on another channel."""
        self._flush()
        leases, running = self.channel.leases, self._running_tags()
        for tag in list(self._delivered):
            held = leases.held.get(tag)
            if held is None or held.payload is None:
                continue
            if tag in running:
                leases.detached.add(tag)
            else:
                leases.settle(settlement.requeue_head(tag, held.place, held.payload))
        self._delivered.clear()
        return []

    def settle(self, settled: Settlement) -> None:
        """Settle a claim."""
        self.channel.lost.pop(settled.tag, None)
        self.channel.rejected.pop(settled.tag, None)
        self._quick_ack(settled.tag)
        self.channel.settle(settled)

    @staticmethod
    def _running_tags() -> set[str]:
        """Return the tags of running tasks; none if the worker is stopping, as they won't be acknowledged."""
        # 0 counts as a reason to stop: it is the exit code of a warm shutdown.
        if any(why is not None and why is not False for why in (state.should_stop, state.should_terminate)):
            return set()
        return {request.message.delivery_tag for request in list(state.active_requests)}
