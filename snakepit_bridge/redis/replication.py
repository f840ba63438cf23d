"""How many replicas must have a write before it counts: ``primary``, ``replicated`` or ``replicated(2, 0.5)``."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

_TEXT = re.compile(r"replicated(?:\(\s*(\d+)\s*(?:,\s*(\d+(?:\.\d+)?)\s*)?\))?")
_MAX_WAIT_S = 60.0
DEFAULT_WAIT_S = 1.0

PRIMARY = "primary"
"""The durability of a write that counts once the primary has it."""


@dataclass(frozen=True, slots=True)
class Replication:
    """What a write waits for.

    Attributes:
        replicas: that must have it; 0 for none.
        wait_s: seconds for which they are waited for.
    """

    replicas: int = 0
    wait_s: float = DEFAULT_WAIT_S

    @classmethod
    def parse(cls, durability: str) -> Self:
        """Parse ``primary``, ``replicated``, ``replicated(REPLICAS)`` or ``replicated(REPLICAS, SECONDS)``.

        Raises:
            ValueError: it is something else.
        """
        if durability == PRIMARY:
            return cls()
        match = _TEXT.fullmatch(durability)
        replicas, wait_s = (match[1] or "1", match[2] or str(DEFAULT_WAIT_S)) if match else ("0", "0")
        if not (int(replicas) >= 1 and 0 < float(wait_s) <= _MAX_WAIT_S):
            raise ValueError(
                "A durability is primary, replicated, replicated(REPLICAS) or replicated(REPLICAS, SECONDS), with at "
                f"least one replica and at most {_MAX_WAIT_S:g} seconds; got {durability!r}"
            )
        return cls(int(replicas), float(wait_s))
