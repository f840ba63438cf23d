"""QoS: which messages a channel has given out, and how each of them ends."""

from __future__ import annotations

from typing import Any

from celery.worker import state
from kombu.transport import virtual

from workers.broker import message as envelope
from workers.broker import settlement
from workers.broker.settlement import Settlement
from workers.watchdog.pulse import PULSE

MAX_CLAIMS = 1_000
"""Claims in one round trip, whatever is asked for: Lua can pass on a few thousand values at a time."""


class QoS(virtual.QoS):
    """Acknowledgements as kombu asks for them. Every claim ends in the process's ``LeaseTable``."""

    channel: Any
    _delivered: Any
    _dirty: set[str]

    def free_slots(self, limit: int) -> int:
        """Returns how many messages may be claimed, ``most`` at a time."""
        if not self.can_consume() or PULSE.stalled_s >= self.channel.leases.settings.lease_s:
            return 0  # a worker whose event loop stands still would only keep others from what it takes
        limit = min(limit, MAX_CLAIMS)
        count = self.prefetch_count
        if not count:
            return limit
        # Tasks that outlived a lost connection take up their places in the pool like any others.
        taken = len(self._delivered) - len(self._dirty) + len(self.channel.leases.detached)
        return max(0, min(limit, count - taken))

    def ack(self, delivery_tag: str) -> None:
        """The message is done with."""
        self.settle(settlement.ack(delivery_tag))

    def reject(self, delivery_tag: str, requeue: bool = False) -> None:
        """The message goes to the end of its queue, or is given up."""
        leases = self.channel.leases
        held, error = leases.held.get(delivery_tag), self.channel.lost.pop(delivery_tag, None)
        if held is None or held.payload is None:
            self.settle(
                settlement.ack(delivery_tag)
            )  # nobody holds it here any more, and the broker will find the same
        elif error is not None:
            self.settle(
                settlement.process_died(delivery_tag, held.place, held.payload, error, leases.settings.max_deliveries)
            )
        elif requeue:
            self.settle(settlement.requeue_tail(delivery_tag, held.place, held.payload))
        else:
            known = envelope.summarize(held.payload)
            self.settle(settlement.dead_letter(delivery_tag, held.place, "rejected", "its worker rejected it", known))

    def restore_unacked(self) -> list[Any]:
        """Gives back what was given out and isn't being run; what runs is acknowledged later, on another channel."""
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
        """Ends a claim in the way that is settled."""
        self.channel.lost.pop(settled.tag, None)
        self._quick_ack(settled.tag)
        self.channel.settle(settled)

    @staticmethod
    def _running_tags() -> set[str]:
        """Returns what Celery's pool is running, unless the worker is stopping: then nothing will acknowledge it."""
        # 0 is a good reason to stop: the exit code of a worker that was asked to.
        if any(why is not None and why is not False for why in (state.should_stop, state.should_terminate)):
            return set()
        return {request.message.delivery_tag for request in list(state.active_requests)}
