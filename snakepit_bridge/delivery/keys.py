"""Where claimed messages are kept in the broker's Redis. The lists that messages wait in are Celery's own.

A claim has a number that is never used twice, and its tag is ``<worker>.<number>``. What a worker holds is one hash,
from tag to record; a record is the list that the message came from, a line feed, and the message as it was sent.
Celery knows no Redis Cluster as a broker, so that these keys and the lists are always on one server.
"""

from __future__ import annotations

from dataclasses import dataclass

REDIS = ("redis://", "rediss://", "valkey://", "valkeys://", "unix://")
"""What the URL of a broker begins with whose messages are claimed."""

SEPARATOR = "\x06\x16"
"""Stands in a list's name between the queue and the priority step, as kombu has it."""


@dataclass(frozen=True, slots=True)
class DeliveryKeys:
    """The keys of one fleet's deliveries.

    Attributes:
        base: what each of them begins with.
        prefix: kombu's ``global_keyprefix``, which stands before the lists too.
    """

    base: str = "dspex:delivery"
    prefix: str = ""

    @classmethod
    def of(cls, namespace: str, prefix: str = "") -> DeliveryKeys:
        """Returns the keys of the fleet with this namespace."""
        return cls(f"{prefix}{namespace}:delivery", prefix)

    @property
    def workers(self) -> str:
        """Hash: each worker that holds something or did lately, with the tick of its last beat."""
        return f"{self.base}:workers"

    @property
    def ticks(self) -> str:
        """Hash: the reaper's tick, and the server's time of it in milliseconds."""
        return f"{self.base}:ticks"

    @property
    def delayed(self) -> str:
        """Sorted set of records, by the millisecond at which each is due."""
        return f"{self.base}:delayed"

    @property
    def dead(self) -> str:
        """Sorted set of the ids of dead messages, by the millisecond at which each was given up."""
        return f"{self.base}:dead"

    @property
    def dead_entries(self) -> str:
        """Hash of what is known of each dead message, by id."""
        return f"{self.base}:dead:entries"

    def held(self, worker: str) -> str:
        """Hash of the records that a worker holds, by tag."""
        return f"{self.base}:held:{worker}"

    def waiting(self, queue: str, step: int = 0) -> str:
        """Returns the list that a queue's messages of one priority step wait in."""
        return f"{self.prefix}{queue}{SEPARATOR}{step}" if step else f"{self.prefix}{queue}"
