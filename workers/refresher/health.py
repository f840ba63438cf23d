"""The health of a refresher, as its endpoints answer it."""

from __future__ import annotations

import time

from workers.health.checks import Problems
from workers.health.loop_beat import LoopBeat

# A round waits for Redis and Elixir for some seconds at most.
_MAX_ROUND_S = 30.0


class RefresherHealth:
    """What a refresher notes of its health, and what follows from that. Only its event loop writes it.

    Attributes:
        beat: whether the event loop turns.
        store_problem, elixir_problem: why Redis or Elixir can't be used; empty if it can.
        is_stopping: whether the refresher is shutting down.
    """

    def __init__(self) -> None:
        self.beat = LoopBeat()
        self.store_problem = self.elixir_problem = ""
        self.is_stopping = False
        self._ran_at: float | None = None
        self._has_started = False

    def note_round(self, *, store_problem: str = "") -> None:
        """Note that the sessions were assigned once more, or why they couldn't be."""
        self._ran_at = time.monotonic()
        self.store_problem = store_problem
        self._has_started = self._has_started or not store_problem

    def live(self) -> Problems:
        """Return whether the event loop turns, and the refresher's leases are renewed on it."""
        silent_s = 0.0 if self._ran_at is None or self.is_stopping else time.monotonic() - self._ran_at
        keeper = f"leases haven't been renewed for {silent_s:.0f} s" if silent_s > _MAX_ROUND_S else ""
        return {"event_loop": self.beat.describe_stall(), "lease_keeper": keeper}

    def ready(self) -> Problems:
        """Return whether the refresher follows the sessions that are assigned to it."""
        return {
            **self.started(),
            **self.live(),
            "shutdown": "the refresher is shutting down" if self.is_stopping else "",
            "store": self.store_problem,
            "elixir": self.elixir_problem,
        }

    def started(self) -> Problems:
        """Return whether the sessions were assigned once."""
        return {"startup": "" if self._has_started else "no sessions were assigned yet"}
