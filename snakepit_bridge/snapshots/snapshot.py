"""Snapshots: all variables of a session at one token, immutable, so that a task reads one and passes it down."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, Self

from snakepit_bridge.exceptions import RevisionLostError, VariableNotFoundError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.records import RolloutRecord
from snakepit_bridge.variables import Variable


@dataclass(frozen=True, slots=True)
class Lineage:
    """The epochs of a session in order, each with its start revision.

    A store that restarts opens a new epoch at the revision that it still has. Later revisions of an older epoch are
    lost, although their tokens compare as older; only the lineage tells lost from published ones. An epoch that isn't
    listed was opened by another server: a former primary that kept publishing for a while.
    """

    epochs: tuple[tuple[int, int], ...] = ()

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse ``"epoch:start epoch:start"``, oldest first."""
        pairs = (pair.partition(":") for pair in text.split())
        return cls(tuple((int(epoch), int(start)) for epoch, _, start in pairs))

    def contains(self, token: Token) -> bool:
        """Check whether a token's state is an ancestor of the session's current state, or may be a successor."""
        if not self.epochs or token.epoch > self.epochs[-1][0]:
            return True
        own = any(epoch == token.epoch and start <= token.revision for epoch, start in self.epochs)
        return own and all(token.revision <= start for epoch, start in self.epochs if epoch > token.epoch)

    def token(self, revision: int) -> Token:
        """Return the token of a revision."""
        return Token(max((epoch for epoch, start in self.epochs if start < revision), default=0), revision)

    def with_epoch(self, epoch: int, start: int) -> Lineage:
        """Return this lineage with another epoch."""
        return Lineage((*self.epochs, (epoch, start)))


@dataclass(frozen=True, slots=True)
class AuthoritySign:
    """The last heartbeat of a session's authority, and its timeout.

    Attributes:
        at: time of the heartbeat, in Unix seconds by the store's clock.
        silence_s: seconds without another heartbeat after which the authority counts as unreachable, chosen by the
            process that follows the authority.
    """

    at: float
    silence_s: float

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """Parse the form of ``str``, two numbers of microseconds; None for an empty text."""
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
    ``authority`` is its name, and ``heard`` its last heartbeat; None if its silence isn't limited. ``published_at`` is
    when this revision was published, by the store's clock; 0 if that isn't known, as of a past revision.
    ``rollout`` stages this revision, if there is one, and ``baseline`` is the snapshot of its baseline; None if the
    store has lost it. ``experiments`` is the text of the experiments that run on the session.
    """

    session: str
    token: Token
    variables: Mapping[str, Variable]
    confirmed_at: float
    lineage: Lineage = field(default=Lineage(), repr=False)
    authority: str = field(default="", repr=False)
    heard: AuthoritySign | None = field(default=None, repr=False)
    published_at: float = field(default=0.0, repr=False, compare=False)
    rollout: RolloutRecord | None = field(default=None, repr=False, compare=False)
    baseline: Snapshot | None = field(default=None, repr=False, compare=False)
    experiments: str = field(default="", repr=False, compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.variables, MappingProxyType):
            object.__setattr__(self, "variables", MappingProxyType(dict(self.variables)))

    def value(self, name: str) -> Any:
        """Return the value of one variable.

        Raises:
            VariableNotFoundError: the session has no such variable; the error lists those that it has.
        """
        variable = self.variables.get(name)
        if variable is None:
            raise VariableNotFoundError(name, self.session, tuple(sorted(self.variables)))
        return variable.value

    def values(self, names: Iterable[str]) -> dict[str, Any]:
        """Return the values of several variables by name.

        Raises:
            VariableNotFoundError: the session lacks one of them.
        """
        variables = self.variables
        names = tuple(names)
        try:
            return {name: variables[name].value for name in names}
        except KeyError:
            return {name: self.value(name) for name in names}

    def satisfies(self, token: Token) -> bool:
        """Check whether this snapshot is at or past a token, as ``at_least`` requires.

        Raises:
            RevisionLostError: the token's state was lost with its epoch, so that waiting is useless.
        """
        if not self.lineage.contains(token):
            raise RevisionLostError(self.session, str(token), str(self.token))
        return token <= self.token

    def diff(self, older: Snapshot) -> dict[str, tuple[Variable | None, Variable | None]]:
        """Return ``{name: (older, this)}`` of the differences; None for a missing variable."""
        names = self.variables.keys() | older.variables.keys()
        pairs = {name: (older.variables.get(name), self.variables.get(name)) for name in sorted(names)}
        # Snapshots read as deltas share unchanged variables, so identity decides nearly all cases.
        return {name: (old, new) for name, (old, new) in pairs.items() if old is not new and old != new}

    @cached_property
    def digest(self) -> str:
        """The SHA-256 of the variables in hex, independent of the token."""
        content = hashlib.sha256()
        for name in sorted(self.variables):
            for part in (name.encode(), self.variables[name].encode()):
                content.update(len(part).to_bytes(8, "big"))
                content.update(part)
        return content.hexdigest()

    def with_confirmation(self, at: float, heard: AuthoritySign | None) -> Snapshot:
        """Return a copy with another ``confirmed_at`` and ``heard``, or itself if they are the same."""
        if (at, heard) == (self.confirmed_at, self.heard):
            return self
        newer = replace(self, confirmed_at=at, heard=heard)
        if "digest" in self.__dict__:
            newer.__dict__["digest"] = self.digest
        return newer

    @property
    def is_staged(self) -> bool:
        """Whether requests for the latest revision may run under different ones."""
        return self.baseline is not None or bool(self.experiments)

    def with_staging(self, rollout: RolloutRecord | None, baseline: Snapshot | None, experiments: str = "") -> Snapshot:
        """Return a copy with another rollout and other experiments, or itself if they are the same."""
        if (rollout, experiments) == (self.rollout, self.experiments) and baseline is self.baseline:
            return self
        newer = replace(self, rollout=rollout, baseline=baseline, experiments=experiments)
        if "digest" in self.__dict__:
            newer.__dict__["digest"] = self.digest
        return newer

    # Deeply immutable, and mapping proxies can't be copied.
    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
