"""The lease keepers of this process, one per broker that its channels consume from."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from redis import Redis

from snakepit_bridge.delivery.keys import DeliveryKeys
from snakepit_bridge.process.forking import after_fork_in_child
from workers.broker.lease_keeper import LeaseKeeper
from workers.broker.lease_settings import LeaseSettings
from workers.broker.leases import LeaseTable

_Key = tuple[Any, ...]


@dataclass(slots=True)
class KeeperRegistry:
    """Shares one keeper per broker, so that leases survive the channel that they were made on."""

    _keepers: dict[_Key, LeaseKeeper] = field(default_factory=dict[_Key, LeaseKeeper])
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def get(
        self, server: _Key, layout: DeliveryKeys, terms: LeaseSettings, connect: Callable[[], Redis]
    ) -> LeaseKeeper:
        """Return a server's keeper; it is kept as long as it has leases or channels."""
        key = (server, layout, terms)
        with self._lock:
            for other in [known for known, keeper in self._keepers.items() if keeper.leases.idle and known != key]:
                del self._keepers[other]
            if key not in self._keepers:
                self._keepers[key] = LeaseKeeper(LeaseTable(layout, terms), connect)
            return self._keepers[key]

    def clear(self) -> None:
        """Drop all keepers: a forked child has neither leases nor its parent's threads."""
        self._keepers, self._lock = {}, threading.Lock()


KEEPERS = KeeperRegistry()
after_fork_in_child(KEEPERS.clear)
