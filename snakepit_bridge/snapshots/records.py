"""What a store tells and is told of a session, beside its snapshots: all of it frozen values."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Self

from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.snapshot import Heard
from snakepit_bridge.variables import Variable
from snakepit_bridge.variables.codec import shown

STORE = "store"
"""The authority of a session that is published here, and not followed from an Elixir server."""

RETENTION = 1_000
"""How many revisions of a session can be read again by default."""

LATEST = "latest"
"""The reference to whatever revision is the current one; no label can be called so."""

Changes = Mapping[str, Variable | None]
"""Variables by name; None stands for one that isn't there (any more)."""

At = Token | str
"""A reference to a revision: its token, the token's text, a label's name, or ``latest``."""

_LABEL = re.compile(r"[A-Za-z][\w-]{0,63}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Head:
    """Where a session is, and who publishes it.

    ``confirmed_at``, and ``now`` when the store was asked, are in Unix seconds by the store's clock. ``heard`` is the
    last sign of the authority; None if it says no bound for its silence.
    """

    token: Token
    authority: str
    fence: int
    confirmed_at: float
    now: float = field(default=0.0, compare=False)
    heard: Heard | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One revision of a session's history: what it changed, and who did so when. ``at`` is in Unix seconds."""

    token: Token
    at: float
    author: str
    reason: str
    before: Changes
    after: Changes


@dataclass(frozen=True, slots=True)
class Label:
    """A name for a revision, and who put it there when. ``at`` is in Unix seconds."""

    token: Token
    at: float
    author: str
    reason: str


@dataclass(frozen=True, slots=True)
class Look:
    """One look at an authority that found nothing new, or that heard of it and found nothing to be sure of.

    Attributes:
        fence: under which it was taken.
        looked_at: when it began, in Unix seconds by the store's clock (see ``Head.now``); 0 if it doesn't confirm.
        expected: the token whose content it was compared with; a store that lost it meanwhile isn't confirmed.
        heard: the sign of the authority that it was; None sets no bound for the authority's silence.
    """

    fence: int
    looked_at: float
    expected: Token | None = None
    heard: Heard | None = None


@dataclass(frozen=True, slots=True)
class Retention:
    """How much of a session's past is kept, and for how long the session itself.

    Attributes:
        revisions: how many past revisions can be read again.
        age_s: seconds for which a revision can be read again once it isn't the current one; None sets no bound. The
            last change stays in the history however old it is.
        ttl_s: seconds without a publish or confirmation after which the session is forgotten; None keeps it.
    """

    revisions: int = RETENTION
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
        """Returns a retention as it is, and a number as that of revisions."""
        return retention if isinstance(retention, Retention) else cls(retention)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads what ``str`` wrote: revisions, microseconds, milliseconds; 0 for no bound."""
        revisions, age_us, ttl_ms = (int(part) for part in text.split())
        return cls(revisions, age_us / 1e6 if age_us else None, ttl_ms / 1e3 if ttl_ms else None)

    def __str__(self) -> str:
        return f"{self.revisions} {round((self.age_s or 0) * 1e6)} {round((self.ttl_s or 0) * 1e3)}"


def checked(changes: Changes, publisher: str = STORE) -> Changes:
    """Returns the changes if each is a variable under its own name, or None, and obeys its constraints.

    An Elixir server is the authority on what it stores, so only what is published here is held to its constraints.

    Raises:
        ValidationError: the first one that isn't so.
    """
    for name, variable in changes.items():
        if variable is None:
            continue
        if not isinstance(variable, Variable):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValidationError(name, shown(variable), "a store takes variables, made by Variable.declare")
        if variable.name != name:
            raise ValidationError(name, f"the variable '{variable.name}'", "it must be published under its own name")
        if publisher == STORE:
            variable.constraints.check(name, variable.type, variable.value)
    return changes


def label_name(name: str) -> str:
    """Returns the name if a label can have it.

    Raises:
        ValueError: it can't.
    """
    if name == LATEST or not _LABEL.fullmatch(name):
        raise ValueError(
            f"A label is a letter and up to 63 letters, digits, - and _, and not '{LATEST}'; got {shown(name)}"
        )
    return name


def as_token(at: At) -> Token | None:
    """Returns the token that a reference spells, or None if it is a label or ``latest``."""
    if isinstance(at, Token):
        return at
    return Token.parse(at) if at[:1].isdigit() else None
