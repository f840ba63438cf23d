"""What a write waits for before it counts: the primary alone, replicas that have it, or the disks of both."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from snakepit_bridge.exceptions import NotReplicatedError, SubmitOptionError
from snakepit_bridge.protocol.messages import DURABILITY

_TEXT = re.compile(r"(replicated|fsynced)(?:\(\s*(\d+)\s*(?:,\s*(\d+(?:\.\d+)?)\s*)?\))?")
_MAX_WAIT_S = 60.0
DEFAULT_WAIT_S = 1.0
# With appendfsync everysec a server writes to its disk once per second, and up to two seconds late.
_DEFAULT_FSYNC_WAIT_S = 3.0

PRIMARY = "primary"
"""The durability of a write that counts once the primary has it."""

_FSYNCED = "fsynced"


@dataclass(frozen=True, slots=True)
class Replication:
    """What a write waits for.

    Attributes:
        replicas: that must have it; 0 for none.
        wait_s: seconds for which they are waited for.
        fsync: whether it must be on disk, in the append-only file of the primary and of these replicas.
    """

    replicas: int = 0
    wait_s: float = DEFAULT_WAIT_S
    fsync: bool = False

    @classmethod
    def parse(cls, durability: str) -> Self:
        """Parse ``primary``, ``replicated`` or ``fsynced``; the latter two also as ``NAME(REPLICAS, SECONDS)``.

        Raises:
            ValueError: it is something else.
        """
        if durability == PRIMARY:
            return cls()
        match = _TEXT.fullmatch(durability)
        fsync = match is not None and match[1] == _FSYNCED
        least, default_s = (0, _DEFAULT_FSYNC_WAIT_S) if fsync else (1, DEFAULT_WAIT_S)
        replicas, wait_s = (int(match[2] or least), float(match[3] or default_s)) if match else (-1, 0.0)
        if not (replicas >= least and 0 < wait_s <= _MAX_WAIT_S):
            raise ValueError(
                "A durability is primary, replicated, replicated(REPLICAS) or replicated(REPLICAS, SECONDS), with at "
                f"least one replica, or fsynced in the same forms, with at most {_MAX_WAIT_S:g} seconds; "
                f"got {durability!r}"
            )
        return cls(replicas, wait_s, fsync)

    def __str__(self) -> str:
        """Return the durability as :meth:`parse` reads it."""
        if not self.waits:
            return PRIMARY
        return f"{_FSYNCED if self.fsync else 'replicated'}({self.replicas}, {self.wait_s:g})"

    @property
    def waits(self) -> bool:
        """Whether a write waits for more than the primary's memory."""
        return self.fsync or self.replicas > 0

    @property
    def wanted(self) -> int:
        """How many servers must confirm a write: replicas, and with ``fsync`` the primary's disk too."""
        return self.replicas + self.fsync

    @property
    def command(self) -> tuple[str | int, ...]:
        """The command that waits for what its connection has written."""
        wait_ms = max(1, round(self.wait_s * 1_000))
        return ("WAITAOF", 1, self.replicas, wait_ms) if self.fsync else ("WAIT", self.replicas, wait_ms)

    def count(self, reply: Any) -> int:
        """Return how many of the wanted servers have confirmed, by the reply to :attr:`command`."""
        if not self.fsync:
            return int(reply)
        primary, replicas = reply
        return int(primary) + min(int(replicas), self.replicas)

    @classmethod
    def of_headers(cls, headers: Mapping[str, Any]) -> Self:
        """Return what the commit of a message's predictions waits for, by its headers.

        Raises:
            SubmitOptionError: it isn't a durability.
        """
        named = headers.get(DURABILITY)
        if named is None:
            return cls()
        try:
            return cls.parse(str(named))
        except ValueError as exc:
            raise SubmitOptionError("durability", str(exc)) from None

    def headers(self) -> dict[str, str]:
        """Return the headers of a message whose predictions' commits wait for this; none if they don't wait."""
        return {DURABILITY: str(self)} if self.waits else {}

    def check(self, confirmed: int, what: str, *, token: str = "") -> None:
        """Raise unless enough servers have confirmed a write.

        Args:
            confirmed: how many have.
            what: was written, as the beginning of a sentence.
            token: of the revision that it is, if it is one.

        Raises:
            NotReplicatedError: it is in force, but on fewer servers than it was to wait for.
        """
        if confirmed < self.wanted:
            raise NotReplicatedError(what, token, confirmed, self.wanted, self.wait_s, self.fsync)


ON_PRIMARY = Replication()
"""The replication of a write that waits for nothing else."""


def read_durability(headers: Mapping[str, Any]) -> Replication:
    """Return what a message's headers ask for; nothing where that can't be read, which its prediction fails with."""
    try:
        return Replication.of_headers(headers)
    except SubmitOptionError:
        return ON_PRIMARY
