"""The records of a session besides its snapshots: head, changes, labels, retention. All are frozen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutRecord
from snakepit_bridge.snapshots.snapshot import AuthoritySign
from snakepit_bridge.variables import Variable
from snakepit_bridge.variables.codec import shorten_repr

STORE = "store"
"""The authority of a session that is published to the store directly, not followed from an Elixir server."""

DEFAULT_REVISIONS = 1_000
"""Default number of past revisions that are kept."""

LATEST = "latest"
"""The reference to the current revision; a reserved label name."""

Changes = Mapping[str, Variable | None]
"""Variables by name; None for a missing or deleted one."""

RevisionRef = Token | str
"""A reference to a revision: its token, the token's text, a label's name, or ``latest``."""

_LABEL = re.compile(r"[A-Za-z][\w-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Head:
    """The current token and authority of a session.

    ``confirmed_at``, and ``now`` at the time of reading, are in Unix seconds by the store's clock. ``heard`` is the
    authority's last heartbeat; None if its silence isn't limited. ``rollout`` stages the token, if there is one, and
    ``experiments`` is the text of the experiments that run.
    """

    token: Token
    authority: str
    fence: int
    confirmed_at: float
    now: float = field(default=0.0, compare=False)
    heard: AuthoritySign | None = None
    rollout: RolloutRecord | None = None
    experiments: str = ""

    @property
    def is_staged(self) -> bool:
        """Whether the session has experiments, or a rollout by which somebody still gets the baseline."""
        return bool(self.experiments) or (self.rollout is not None and self.rollout.is_staged)


@dataclass(frozen=True, slots=True)
class Change:
    """One revision in a session's history: its changes, author, reason and time (``at``, in Unix seconds)."""

    token: Token
    at: float
    author: str
    reason: str
    before: Changes
    after: Changes


@dataclass(frozen=True, slots=True)
class Label:
    """A label of a revision, with author, reason and time (``at``, in Unix seconds)."""

    token: Token
    at: float
    author: str
    reason: str


@dataclass(frozen=True, slots=True)
class Confirmation:
    """One read of an authority that found no change, or only proved that the authority is reachable.

    Attributes:
        fence: the publisher's fence.
        looked_at: start of the read, in Unix seconds by the store's clock (see ``Head.now``); 0 if it confirms nothing.
        expected: the token whose content was compared; the store must still be at it.
        heard: the authority's heartbeat; None for no limit of its silence.
    """

    fence: int
    looked_at: float
    expected: Token | None = None
    heard: AuthoritySign | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a session's history is kept, and how long the session itself.

    Attributes:
        revisions: maximum number of past revisions that are kept.
        age_s: seconds for which a revision is kept once it isn't the current one; None for no limit. The last change
            always stays in the history.
        ttl_s: seconds without a publish or confirmation after which the session expires; None for never.
    """

    revisions: int = DEFAULT_REVISIONS
    age_s: float | None = None
    ttl_s: float | None = None

    def __post_init__(self) -> None:
        if self.revisions < 1:
            raise ValueError(f"A session keeps at least 1 revision; got {self.revisions}")
        for name in ("age_s", "ttl_s"):
            seconds = getattr(self, name)
            if seconds is not None and not 0.001 <= seconds <= 1e9:
                raise ValueError(f"{name} is a number of seconds from 0.001 to 1e9, or None; got {seconds}")

    @classmethod
    def of(cls, retention: Retention | int) -> Retention:
        """Return a retention as it is, and for a number one with that many revisions."""
        return retention if isinstance(retention, Retention) else cls(retention)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the form of ``str``: revisions, microseconds, milliseconds; 0 for no limit."""
        revisions, age_us, ttl_ms = (int(part) for part in text.split())
        return cls(revisions, age_us / 1e6 if age_us else None, ttl_ms / 1e3 if ttl_ms else None)

    def __str__(self) -> str:
        return f"{self.revisions} {round((self.age_s or 0) * 1e6)} {round((self.ttl_s or 0) * 1e3)}"


def check_changes(changes: Changes, publisher: str = STORE) -> Changes:
    """Return the changes if each is None or a valid variable under its own name.

    An Elixir server is the authority on its values, so constraints and the policy of rollouts are checked only for
    ``STORE``.

    Raises:
        ValidationError: a change is not a variable, has another name, or violates its constraints.
        RolloutPolicyError: the policy of the session's rollouts is invalid.
    """
    for name, variable in changes.items():
        if variable is None:
            continue
        if not isinstance(variable, Variable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValidationError(name, shorten_repr(variable), "a store takes variables, made by Variable.declare")
        if variable.name != name:
            raise ValidationError(name, f"the variable '{variable.name}'", "it must be published under its own name")
        if publisher == STORE:
            variable.constraints.check(name, variable.type, variable.value)
            if name == POLICY_VARIABLE:
                _check_policy(variable)
    return changes


def _check_policy(variable: Variable) -> None:
    # Policies bring pydantic along, which most publishers don't need.
    from snakepit_bridge.rollouts.policy import parse_policy

    if variable.type != "string":
        raise ValidationError(variable.name, shorten_repr(variable.value), "a rollout policy is a string of JSON")
    parse_policy(variable.value)


def check_label_name(name: str) -> str:
    """Return the name if it is a valid label.

    Raises:
        ValueError: the name has invalid characters, is too long, or is reserved.
    """
    if name == LATEST or not _LABEL.fullmatch(name):
        raise ValueError(
            f"A label is a letter and up to 63 letters, digits, - and _, and not '{LATEST}'; got {shorten_repr(name)}"
        )
    return name


def parse_reference(at: RevisionRef) -> Token | None:
    """Return the token of a reference, or None if it is a label or ``latest``."""
    if isinstance(at, Token):
        return at
    return Token.parse(at) if at[:1].isdigit() else None
