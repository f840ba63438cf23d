"""Snapshots: all variables of a session at one token, immutable: a task reads one once and passes it down."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

from snakepit_bridge.exceptions import RevisionLostError, VariableNotFoundError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.variables import Variable


@dataclass(frozen=True, slots=True)
class Lineage:
    """The epochs of a session in order, each with the revision that it began from.

    A store that restarts opens a new epoch from the revision that it still has. What an older epoch published beyond
    that is lost, although its tokens compare as older; only the lineage tells the two apart. An epoch that isn't among
    them was opened by another server: one that was replaced, but went on publishing for a while.
    """

    epochs: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads ``"epoch:start epoch:start"``, oldest first, as the stores keep it."""
        pairs = (pair.partition(":") for pair in text.split())
        return cls(tuple((int(epoch), int(start)) for epoch, _, start in pairs))

    def holds(self, token: Token) -> bool:
        """Tell whether a token's state is part of what the session has become, or may still become part of it."""
        if not self.epochs or token.epoch > self.epochs[-1][0]:
            return True
        own = any(epoch == token.epoch and start <= token.revision for epoch, start in self.epochs)
        return own and all(token.revision <= start for epoch, start in self.epochs if epoch > token.epoch)

    def token(self, revision: int) -> Token:
        """Returns the token that a revision was published under."""
        return Token(max((epoch for epoch, start in self.epochs if start < revision), default=0), revision)

    def opened(self, epoch: int, start: int) -> Lineage:
        """Returns this lineage with one more epoch."""
        return Lineage((*self.epochs, (epoch, start)))


@dataclass(frozen=True, slots=True)
class Heard:
    """The last sign of a session's authority, and for how long it may be silent until it counts as away.

    Attributes:
        at: when it was last heard of, in Unix seconds by the store's clock.
        silence_s: seconds from then on after which it is away, unless it is heard of again. Whoever follows the
            authority knows how long that can take while all is well.
    """

    at: float
    silence_s: float

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Read what ``str`` wrote, two numbers of microseconds; None if the text is empty."""
        if not text:
            return None
        at_us, silence_us = text.split()
        return cls(int(at_us) / 1e6, int(silence_us) / 1e6)

    def __str__(self) -> str:
        return f"{max(0, round(self.at * 1e6))} {max(0, round(self.silence_s * 1e6))}"


@dataclass(frozen=True)
class Snapshot:
    """The variables of a session at one token.

    ``confirmed_at`` is when the session's authority was last known to agree, in Unix seconds by the store's clock;
    ``authority`` is that authority's name, ``heard`` the last sign of it; None if it says no bound for its silence.
    """

    session: str
    token: Token
    variables: Mapping[str, Variable]
    confirmed_at: float
    lineage: Lineage = field(default=Lineage(), repr=False)
    authority: str = field(default="", repr=False)
    heard: Heard | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not isinstance(self.variables, MappingProxyType):
            object.__setattr__(self, "variables", MappingProxyType(dict(self.variables)))

    def value(self, name: str) -> Any:
        """Returns the value of one variable.

        Raises:
            VariableNotFoundError: the session doesn't have it; the error names those that it has.
        """
        variable = self.variables.get(name)
        if variable is None:
            raise VariableNotFoundError(name, self.session, tuple(sorted(self.variables)))
        return variable.value

    def values(self, names: Iterable[str]) -> dict[str, Any]:
        """Returns the values of several variables by name.

        Raises:
            VariableNotFoundError: the session doesn't have one of them.
        """
        variables = self.variables
        names = tuple(names)
        try:
            return {name: variables[name].value for name in names}
        except KeyError:
            return {name: self.value(name) for name in names}

    def meets(self, token: Token) -> bool:
        """Tells whether this snapshot is at or past a token: what ``at_least`` asks for.

        Raises:
            RevisionLostError: the token's state went down with its epoch, so that no wait will bring it.
        """
        if not self.lineage.holds(token):
            raise RevisionLostError(self.session, str(token), str(self.token))
        return token <= self.token

    def diff(self, older: Snapshot) -> dict[str, tuple[Variable | None, Variable | None]]:
        """Returns ``{name: (older, this)}`` of what differs; None stands for a variable that isn't there."""
        names = self.variables.keys() | older.variables.keys()
        pairs = {name: (older.variables.get(name), self.variables.get(name)) for name in sorted(names)}
        # Snapshots read one from the other share what did not change, so identity settles nearly all of it.
        return {name: (old, new) for name, (old, new) in pairs.items() if old is not new and old != new}

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the variables as hex digits: equal content has an equal digest, whatever its token."""
        content = hashlib.sha256()
        for name in sorted(self.variables):
            for part in (name.encode(), self.variables[name].encode()):
                content.update(len(part).to_bytes(8, "big"))
                content.update(part)
        return content.hexdigest()

    def confirmed(self, at: float, heard: Heard | None) -> Snapshot:
        """Return this snapshot with another ``confirmed_at`` and ``heard``, itself if they are the same."""
        if (at, heard) == (self.confirmed_at, self.heard):
            return self
        newer = replace(self, confirmed_at=at, heard=heard)
        if "digest" in self.__dict__:
            newer.__dict__["digest"] = self.digest
        return newer

    # Immutable all the way down, and mapping proxies can't be copied anyway.
    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
