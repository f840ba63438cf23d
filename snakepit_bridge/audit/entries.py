"""The entries of the audit trail: who changed what, from where, and how that ended. Names and tokens, never values."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Self

NAMES_RECORDED = 50
"""How many names of what changed an entry has; ``changes`` counts all of them."""

_MAX_TEXT = 500
SAYS = " (says: "
"""What separates the name of a gateway's token from what its client says."""


class AuditSource(StrEnum):
    """Where a change comes from."""

    CLIENT = "client"
    CLI = "cli"
    GATEWAY = "gateway"
    ELIXIR = "elixir"
    WORKER = "worker"


class AuditOutcome(StrEnum):
    """How a change ended: it was made, waits for an approval, was refused, or was denied to who wanted it."""

    DONE = "done"
    REQUESTED = "requested"
    REFUSED = "refused"
    DENIED = "denied"


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """One change, or the attempt at one.

    Attributes:
        action: such as ``publish``, ``label`` or ``rollout.promoted``; of a denied call the gateway's operation.
        target: such as ``session:shop``, ``session:shop@stable``, ``program:qa@prod`` or ``dead:ID``.
        actor: who did it: an author, the name of a gateway's token, or the user of the command line.
        source: where it came from.
        reason: why, as the actor said.
        before, after: the target's token or version, where it has any.
        outcome: how it ended.
        problem: why it was refused or denied.
        names: of what changed within the target, at most ``NAMES_RECORDED``.
        changes: how many changed; of denied calls, how many there were.
        approval: the id of the request that was approved, or that waits.
        approvers: who approved it.
        at: when, in Unix seconds by the server's clock; 0 before it is stored.
        position: its place in the trail; empty before it is stored.
    """

    action: str
    target: str
    actor: str = ""
    source: AuditSource = AuditSource.CLIENT
    reason: str = ""
    before: str = ""
    after: str = ""
    outcome: AuditOutcome = AuditOutcome.DONE
    problem: str = ""
    names: tuple[str, ...] = ()
    changes: int = 0
    approval: str = ""
    approvers: tuple[str, ...] = ()
    at: float = 0.0
    position: str = ""

    def encode(self) -> dict[str, str]:
        """Return the fields of a stream's entry, as ``redis/audit.lua`` writes them."""
        return {
            "action": self.action,
            "target": self.target,
            "actor": self.actor,
            "source": self.source,
            "reason": self.reason,
            "before": self.before,
            "after": self.after,
            "outcome": self.outcome,
            "problem": self.problem[:_MAX_TEXT],
            "names": "\n".join(self.names[:NAMES_RECORDED]),
            "changes": str(self.changes or len(self.names)),
            "approval": self.approval,
            "approvers": "\n".join(self.approvers),
        }

    @classmethod
    def decode(cls, position: bytes, fields: Mapping[bytes, bytes]) -> Self:
        """Return the entry of a stream's entry; fields that a newer version adds are left out."""
        text = {name.decode(): value.decode(errors="replace") for name, value in fields.items()}
        known: dict[str, Any] = {name: text[name] for name in _TEXT_FIELDS}
        lists: dict[str, Any] = {name: tuple(filter(None, text[name].split("\n"))) for name in _LIST_FIELDS}
        place = position.decode()
        return cls(
            **known,
            **lists,
            source=AuditSource(text["source"]),
            outcome=AuditOutcome(text["outcome"]),
            changes=int(text["changes"]),
            at=int(place.partition("-")[0]) / 1000,
            position=place,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return all fields as JSON values."""
        return {**asdict(self), "names": list(self.names), "approvers": list(self.approvers)}

    def refuse(self, problem: str) -> AuditEntry:
        """Return the same attempt as refused."""
        return replace(self, outcome=AuditOutcome.REFUSED, problem=problem)


_TEXT_FIELDS = ("action", "target", "actor", "reason", "before", "after", "problem", "approval")
_LIST_FIELDS = ("names", "approvers")


@dataclass(frozen=True, slots=True)
class AuditFilter:
    """Which entries to show; an empty field leaves none out.

    Attributes:
        session: entries of this session, its labels, rollouts and experiments.
        actor: whose; of a gateway's token the token's name, whatever its client says besides.
        action: an action such as ``publish``, or the first part of some, such as ``rollout``.
        outcome: how they ended.
    """

    session: str = ""
    actor: str = ""
    action: str = ""
    outcome: AuditOutcome | None = None

    def matches(self, entry: AuditEntry) -> bool:
        """Check whether an entry is among those to show."""
        return (
            (not self.session or entry.target == f"session:{self.session}" or _is_label_of(entry, self.session))
            and (not self.actor or self.actor in (entry.actor, identify(entry.actor)))
            and (not self.action or self.action in (entry.action, entry.action.partition(".")[0]))
            and self.outcome in (None, entry.outcome)
        )

    def build_screen(self) -> Callable[[Mapping[bytes, bytes]], bool]:
        """Return a quick check of the fields of a stream's entry, which is true of every entry that is shown."""
        texts = (f"session:{self.session}" if self.session else "", self.actor, self.action, self.outcome or "")
        target, actor, action, outcome = (text.encode(errors="replace") for text in texts)
        return lambda fields: (
            fields[b"target"].startswith(target)
            and fields[b"actor"].startswith(actor)
            and fields[b"action"].startswith(action)
            and fields[b"outcome"].startswith(outcome)
        )


def _is_label_of(entry: AuditEntry, session: str) -> bool:
    return re.fullmatch(re.escape(f"session:{session}@") + r"[\w-]+", entry.target) is not None


def identify(author: str) -> str:
    """Return who an author is: of a change through a gateway the token's name, without what its client says."""
    return author.partition(SAYS)[0]


def describe_author(name: str, declared: str) -> str:
    """Return the author of a change through a gateway: its token's name, followed by what its client says.

    Args:
        name: of the token; empty without tokens.
        declared: by the client; may be empty.
    """
    if not declared or declared == name:
        return name
    return f"{name}{SAYS}{declared})" if name else declared


def contains_separator(name: str) -> bool:
    """Check whether a name has the text that separates a token's name from what its client says."""
    return SAYS in name


def select(entries: Iterable[AuditEntry], chosen: AuditFilter) -> list[AuditEntry]:
    """Return those entries that a filter shows."""
    return [entry for entry in entries if chosen.matches(entry)]
