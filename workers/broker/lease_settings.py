"""Lease settings: how long a lease is, and when a message is dead-lettered."""

from __future__ import annotations

from dataclasses import dataclass

HEARTBEATS_PER_LEASE = 5
"""Heartbeats in one lease."""


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """The lease settings from the broker's transport options.

    Attributes:
        lease_s: seconds without a heartbeat after which a worker's messages are redelivered.
        max_deliveries: deliveries, each lost with its worker, after which a message is dead-lettered.
        hold_limit_s: maximum seconds that a message is held.
        hold_grace_s: maximum seconds that a message is held beyond its task's hard time limit.
        stall_s: seconds without a reply after which a consumer reconnects if messages are waiting.
        delay_from_s: messages whose ETA is further away than this many seconds are delayed in Redis.
    """

    lease_s: float = 5.0
    max_deliveries: int = 5
    hold_limit_s: float = 3_600.0
    hold_grace_s: float = 60.0
    stall_s: float = 10.0
    delay_from_s: float = 1.0

    @property
    def heartbeat_s(self) -> float:
        """Seconds between two heartbeats of a worker."""
        return self.lease_s / HEARTBEATS_PER_LEASE
