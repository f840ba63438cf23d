"""What a worker reports of itself to its watchdog, which answers for it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class WorkerReport:
    """The state of a worker that has started.

    Attributes:
        reported_at: when it was made, by the monotonic clock, which processes of one machine share.
        is_stopping: whether the worker is shutting down.
        has_profiles: whether its LM profiles are resolved.
        is_warm: whether DSPy, the programs' packages and the LMs' clients are loaded; in a worker that forks, each
            child loads them.
        forks: whether its tasks run in forked processes.
        broker_problem: why the broker can't be used; empty if it can.
        keeper_silent_s: seconds since a thread that renews leases last ran; 0 if there is none.
        idle_queues: the worker's queues that it takes no messages from although it has room for them.
        newer_release: what it leaves to workers of a newer release; empty if it does nothing of the kind.
        is_unknown: whether the worker failed to determine its state; then the other attributes tell nothing.
    """

    reported_at: float
    is_stopping: bool = False
    has_profiles: bool = True
    is_warm: bool = True
    forks: bool = False
    broker_problem: str = ""
    keeper_silent_s: float = 0.0
    idle_queues: tuple[str, ...] = ()
    newer_release: str = ""
    is_unknown: bool = False

    def encode(self, max_bytes: int) -> bytes:
        """Return the form in which it is shared with the watchdog, without the idle queues that don't fit.

        Args:
            max_bytes: how long it may become.
        """
        encoded = json.dumps(asdict(self)).encode()
        if len(encoded) <= max_bytes or not self.idle_queues:
            return encoded
        return replace(self, idle_queues=self.idle_queues[: len(self.idle_queues) // 2]).encode(max_bytes)

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Return what was encoded."""
        fields: dict[str, Any] = json.loads(data)
        fields["idle_queues"] = tuple(fields["idle_queues"])
        return cls(**fields)
