"""Holding: what one process holds of one broker's messages, and the ends of claims that the broker doesn't know yet.

It outlives connections and channels: a task that runs while the broker restarts is acknowledged afterwards, on
whichever connection there is then. Channels and the keeper's thread share it; every step is one operation on a
dictionary or a deque, which Python does whole.
"""

from __future__ import annotations

import threading
import time
import weakref
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

from workers.broker.dead_lettering import notify_listeners
from workers.broker.keys import DeliveryKeys
from workers.broker.lease_settings import LeaseSettings
from workers.broker.settlement import Payload, Settlement


@dataclass(frozen=True, slots=True)
class HeldClaim:
    """One claim.

    Attributes:
        place: the list that the message came from.
        payload: the message's envelope; None if it can't be read.
        until: this process's clock past which it isn't held any more.
    """

    place: str
    payload: Payload | None
    held_until: float


class LeaseTable:
    """What this process holds.

    Args:
        layout: the broker's keys.
        terms: for how long things are held.
    """

    def __init__(self, layout: DeliveryKeys, settings: LeaseSettings) -> None:
        self.layout = layout
        self.settings = settings
        self.worker = uuid4().hex[:12]
        self.held: dict[str, HeldClaim] = {}
        self.unsettled: dict[str, Settlement] = {}
        self.detached: set[str] = set()
        """Claims whose task still runs, though the channel that they came by is closed."""
        self.channels: weakref.WeakSet[Any] = weakref.WeakSet()
        self._unsent: deque[Settlement] = deque()
        self._next = 1
        self._lock = threading.Lock()

    @property
    def idle(self) -> bool:
        """Whether nothing is held, nothing has to be told, and no channel is open."""
        return not (self.held or self.unsettled or self.channels)

    @property
    def settle_keys(self) -> tuple[str, str, str, str]:
        """The keys that ``settle.lua`` takes."""
        layout = self.layout
        return layout.held(self.worker), layout.delayed, layout.dead, layout.dead_entries

    def reserve_numbers(self, count: int) -> int:
        """Returns the first of so many claim numbers, all of which are the caller's."""
        with self._lock:
            first, self._next = self._next, self._next + count
        return first

    def add(self, tag: str, place: str, payload: Payload | None) -> None:
        """Notes a claim."""
        self.held[tag] = HeldClaim(place, payload, time.monotonic() + self._limit_s(payload))

    def settle(self, settlement: Settlement) -> None:
        """Ends a claim: it counts as ended here at once, and the broker is told until it confirms that."""
        self.held.pop(settlement.tag, None)
        self.detached.discard(settlement.tag)
        self.unsettled[settlement.tag] = settlement
        self._unsent.append(settlement)

    def take_unsent(self) -> list[Settlement]:
        """Returns the ends that nobody has told the broker yet; the caller does, or the keeper does it later."""
        taken: list[Settlement] = []
        while True:
            try:
                taken.append(self._unsent.popleft())
            except IndexError:
                return taken

    @property
    def has_unsent(self) -> bool:
        """Whether there are such ends."""
        return bool(self._unsent)

    def confirm(self, settlements: Iterable[Settlement]) -> None:
        """Notes that the broker knows of these ends."""
        ended = list(settlements)
        for one in ended:
            self.unsettled.pop(one.tag, None)
        notify_listeners(ended)

    def overdue_settlements(self, age_s: float) -> list[Settlement]:
        """Returns the ends that the broker hasn't confirmed in so many seconds."""
        before = time.monotonic() - age_s
        return [one for one in list(self.unsettled.values()) if one.decided_at <= before]

    def overdue_claims(self) -> list[tuple[str, HeldClaim]]:
        """Returns the claims that have been held for too long."""
        now = time.monotonic()
        return [(tag, held) for tag, held in list(self.held.items()) if held.held_until <= now]

    def _limit_s(self, payload: Payload | None) -> float:
        limits = ((payload or {}).get("headers") or {}).get("timelimit")
        hard = limits[0] if isinstance(limits, list) and limits else None
        if isinstance(hard, int | float) and hard > 0:
            return float(hard) + self.settings.hold_grace_s
        return self.settings.hold_limit_s
