"""The keys of message delivery in the broker's Redis. Queues are Celery's own lists.

A claim has a unique number, and its delivery tag is ``<worker>.<number>``. A worker's claims are one hash from tag to
record; a record is the list that the message came from, a line feed, and the message as it was sent. Celery doesn't
support Redis Cluster as a broker, so all these keys are on one server.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from snakepit_bridge.redis.key_names import FleetKeys

REDIS_SCHEMES = (
    "redis://", "rediss://", "valkey://", "valkeys://", "unix://", "redis+socket://", "redis+sentinel://", "rediss+sentinel://",
)  # fmt: skip
"""URL prefixes of brokers with claims and leases."""

SEPARATOR = "\x06\x16"
"""kombu's separator between the queue's name and the priority step in a list's key."""


@dataclass(frozen=True)
class DeliveryKeys:
    """The delivery keys of one fleet.

    Attributes:
        base: prefix of all keys.
        prefix: kombu's ``global_keyprefix``, which prefixes the queues' lists too.
    """

    base: str = "dspex:delivery"
    prefix: str = ""

    @classmethod
    def of(cls, namespace: str, prefix: str = "") -> DeliveryKeys:
        """Return the keys of a namespace's fleet."""
        return cls(f"{prefix}{FleetKeys(namespace).deliveries}", prefix)

    @cached_property
    def workers(self) -> str:
        """Hash from each worker with claims, now or recently, to the tick of its last heartbeat."""
        return f"{self.base}:workers"

    @cached_property
    def ticks(self) -> str:
        """Hash of the reaper's current tick and the server's time of it in milliseconds."""
        return f"{self.base}:ticks"

    @cached_property
    def delayed(self) -> str:
        """Sorted set of delayed records, by due time in Unix milliseconds."""
        return f"{self.base}:delayed"

    @cached_property
    def dead(self) -> str:
        """Sorted set of dead letters' ids, by Unix milliseconds."""
        return f"{self.base}:dead"

    @cached_property
    def dead_entries(self) -> str:
        """Hash of dead letters by id."""
        return f"{self.base}:dead:entries"

    def held(self, worker: str) -> str:
        """Return the key of the hash of a worker's claimed records, by tag."""
        return f"{self.base}:held:{worker}"

    def waiting(self, queue: str, step: int = 0) -> str:
        """Return the key of the list of a queue's messages of one priority step."""
        return f"{self.prefix}{queue}{SEPARATOR}{step}" if step else f"{self.prefix}{queue}"
