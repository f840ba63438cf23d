"""The terms on which messages are claimed: how long a lease is, and when a message is given up."""

from __future__ import annotations

from dataclasses import dataclass

HEARTBEATS_PER_LEASE = 5
"""Beats in one lease."""


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """What a channel is told by the broker's transport options.

    Attributes:
        lease_s: seconds after which what a silent worker holds is handed to others; measured in its beats.
        max_deliveries: how often a message is given out that goes down with its worker each time.
        hold_limit_s: seconds that a message is held at most, whatever becomes of its task.
        hold_grace_s: seconds beyond a task's own hard time limit that its message is held at most.
        stall_s: seconds without an answer after which a consumer is restarted while messages wait.
        delay_from_s: a message that is due later than so many seconds from now is put aside.
    """

    lease_s: float = 5.0
    max_deliveries: int = 5
    hold_limit_s: float = 3_600.0
    hold_grace_s: float = 60.0
    stall_s: float = 10.0
    delay_from_s: float = 1.0

    @property
    def heartbeat_s(self) -> float:
        """Seconds between two beats of a worker."""
        return self.lease_s / HEARTBEATS_PER_LEASE
