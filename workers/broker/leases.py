"""One process's leases on one broker, and the settlements that the broker hasn't confirmed yet.

The table outlives connections and channels: a task that runs while the broker restarts is acknowledged afterwards, on
the next connection. Channels and the keeper's thread share it; every step is one atomic operation on a dictionary or
a deque.
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

from snakepit_bridge.delivery.keys import DeliveryKeys
from workers.broker.dead_lettering import notify_listeners
from workers.broker.lease_settings import LeaseSettings
from workers.broker.settlement import Payload, Settlement


@dataclass(frozen=True, slots=True)
class HeldClaim:
    """One leased message.

    Attributes:
        place: the Redis list that the message came from.
        payload: the message's envelope; None if it is unreadable.
        held_until: monotonic time until which it is held.
    """

    place: str
    payload: Payload | None
    held_until: float


class LeaseTable:
    """This process's leases and unconfirmed settlements.

    Args:
        layout: the broker's keys.
        settings: the lease settings.
        worker: the id of another process's worker, if they are that one's.
    """

    def __init__(self, layout: DeliveryKeys, settings: LeaseSettings, worker: str = "") -> None:
        self.layout = layout
        self.settings = settings
        self.worker = worker or uuid4().hex[:12]
        self.held_key = layout.held(self.worker)
        self.held: dict[str, HeldClaim] = {}
        self.unsettled: dict[str, Settlement] = {}
        self.detached: set[str] = set()
        """Claims whose task still runs although their channel was closed."""
        self.channels: weakref.WeakSet[Any] = weakref.WeakSet()
        self._unsent: deque[Settlement] = deque()
        self._next = 1
        self._lock = threading.Lock()

    @property
    def idle(self) -> bool:
        """Whether there is no lease, no unconfirmed settlement and no open channel."""
        return not (self.held or self.unsettled or self.channels)

    @property
    def settle_keys(self) -> tuple[str, str, str, str]:
        """The keys of ``settle.lua``."""
        layout = self.layout
        return self.held_key, layout.delayed, layout.dead, layout.dead_entries

    def reserve_numbers(self, count: int) -> int:
        """Reserve ``count`` claim numbers and return the first."""
        with self._lock:
            first, self._next = self._next, self._next + count
        return first

    def add(self, tag: str, place: str, payload: Payload | None) -> None:
        """Record a claim."""
        self.held[tag] = HeldClaim(place, payload, time.monotonic() + self._limit_s(payload))

    def settle(self, settlement: Settlement) -> None:
        """Settle a claim: it is no longer held here, and the settlement is sent until the broker confirms it."""
        self.held.pop(settlement.tag, None)
        self.detached.discard(settlement.tag)
        self.unsettled[settlement.tag] = settlement
        self._unsent.append(settlement)

    def take_unsent(self) -> list[Settlement]:
        """Remove and return the settlements that haven't been sent; the keeper sends them again if the caller fails."""
        unsent: list[Settlement] = []
        while True:
            try:
                unsent.append(self._unsent.popleft())
            except IndexError:
                return unsent

    @property
    def has_unsent(self) -> bool:
        """Whether there are settlements that haven't been sent."""
        return bool(self._unsent)

    def confirm(self, settlements: Iterable[Settlement]) -> None:
        """Drop settlements that the broker has confirmed."""
        ended = list(settlements)
        for settlement in ended:
            self.unsettled.pop(settlement.tag, None)
        if any(settlement.verb == "dead" for settlement in ended):
            notify_listeners(ended)

    def overdue_settlements(self, age_s: float) -> list[Settlement]:
        """Return the settlements that the broker hasn't confirmed within ``age_s`` seconds."""
        before = time.monotonic() - age_s
        return [settlement for settlement in list(self.unsettled.values()) if settlement.decided_at <= before]

    def overdue_claims(self) -> list[tuple[str, HeldClaim]]:
        """Return the claims that are past their hold limit."""
        now = time.monotonic()
        return [(tag, held) for tag, held in list(self.held.items()) if held.held_until <= now]

    def _limit_s(self, payload: Payload | None) -> float:
        limits = ((payload or {}).get("headers") or {}).get("timelimit")
        hard = limits[0] if isinstance(limits, list) and limits else None
        if isinstance(hard, int | float) and hard > 0:
            return float(hard) + self.settings.hold_grace_s
        return self.settings.hold_limit_s
