"""What happens to rollouts: each change of a record, with its author, its reason and the numbers that decided it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, Self

from snakepit_bridge.rollouts.records import RolloutRecord

RolloutEventKind = Literal["started", "stage", "paused", "resumed", "promoted", "rolled_back", "superseded"]
"""What happened; ``stage`` is the beginning of one, and ``superseded`` an end without a decision."""

MAX_EVENTS = 1_000
"""Events that are kept of each target."""


@dataclass(frozen=True, slots=True)
class RolloutEvent:
    """One change of a rollout.

    Attributes:
        kind: what happened.
        record: the rollout after it.
        author: who caused it; ``controller`` for what the fleet decided by itself.
        reason: why.
        detail: the numbers behind it, as JSON values.
        at: when, in Unix seconds by the store's clock; 0 before it is stored.
        position: its place among the target's events; empty before it is stored.
    """

    kind: RolloutEventKind
    record: RolloutRecord
    author: str = ""
    reason: str = ""
    detail: Mapping[str, Any] = field(default_factory=dict[str, Any])
    at: float = 0.0
    position: str = ""

    def encode_detail(self) -> str:
        """Return the JSON text of the detail."""
        return json.dumps(dict(self.detail), separators=(",", ":"), sort_keys=True)

    @classmethod
    def decode(cls, position: bytes, fields: Mapping[bytes, bytes]) -> Self:
        """Return the event of a stream's entry."""
        text = {name.decode(): value.decode() for name, value in fields.items()}
        kind: Any = text["kind"]
        return cls(
            kind,
            RolloutRecord.parse(text["record"]),
            text.get("author", ""),
            text.get("reason", ""),
            json.loads(text.get("detail") or "{}"),
            int(text.get("at", 0)) / 1e6,
            position.decode(),
        )


def check_attribution(what: str, author: str, reason: str) -> None:
    """Check that whoever steers a rollout or ends an experiment says who it is, and why: history has both.

    Args:
        what: what is done, for the error.
        author, reason: of the event.

    Raises:
        ValueError: one of them is blank.
    """
    for name, text in (("author", author), ("reason", reason)):
        if not text.strip():
            raise ValueError(f"{what} needs its {name}, for its history; got {text!r}.")
