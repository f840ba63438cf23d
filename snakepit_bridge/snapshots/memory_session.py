"""One session of the memory store: its state, its past, and what may be done to it. The store's lock guards it all."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType

from snakepit_bridge.exceptions import (
    FencedError,
    LabelMovedError,
    RevisionLostError,
    RevisionNotReachedError,
    SessionOwnedElsewhereError,
    StaleTokenError,
)
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import checks
from snakepit_bridge.snapshots.checks import Check
from snakepit_bridge.snapshots.records import Change, Changes, Head, Label, Retention
from snakepit_bridge.snapshots.snapshot import Heard, Lineage, Snapshot
from snakepit_bridge.variables import Variable

# A fence or a check can come before the first publish, but it doesn't stay for ever without one.
UNPUBLISHED_S = 86_400.0

Variables = Mapping[str, Variable]
_EMPTY: Variables = MappingProxyType({})


@dataclass(slots=True)
class MemorySession:
    """One session."""

    name: str
    lineage: Lineage
    token: Token
    usual: Retention
    history: deque[Change] = field(default_factory=deque[Change])
    variables: Variables = field(default_factory=lambda: _EMPTY)
    authority: str = ""
    fence: int = 0
    confirmed_at: float = 0.0
    heard: Heard | None = None
    labels: dict[str, Label] = field(default_factory=dict[str, Label])
    labelled: dict[Token, Variables] = field(default_factory=dict[Token, Variables])
    checks: dict[str, Check] = field(default_factory=dict[str, Check])
    own: Retention | None = None
    expires_at: float | None = field(default_factory=lambda: time.time() + UNPUBLISHED_S)

    @property
    def published(self) -> bool:
        """A session can stand before its first publish, for its fence or its checks."""
        return self.token.revision > 0

    @property
    def retention(self) -> Retention:
        """The session's own retention, else the store's default."""
        return self.own or self.usual

    def oldest(self) -> Token:
        """The oldest token that can be read again: undoing the oldest change gives the state before it."""
        return self.lineage.token(max(1, self.history[0].token.revision - 1))

    def admit(self, publisher: str, fence: int | None, expected: Token | None) -> None:
        """Returns if this publisher may publish here now; raises the refusal otherwise."""
        self.owned(publisher)
        if (fence or 0) != self.fence:
            raise FencedError(self.name, fence or 0, self.fence)
        found = self.token if self.published else Token(0, 0)
        if expected is not None and expected != found:
            raise StaleTokenError(self.name, str(expected), str(found))

    def owned(self, publisher: str) -> None:
        """Returns unless another publisher is the authority."""
        if self.authority not in ("", publisher):
            raise SessionOwnedElsewhereError(self.name, self.authority, publisher)

    def commit(self, updates: Changes, publisher: str, author: str, reason: str) -> Token:
        """Makes the updates one revision, if they change anything and obey the checks."""
        new = {name: each for name, each in updates.items() if each != self.variables.get(name)}
        after = MappingProxyType(present({**self.variables, **new}))
        checks.hold(self.name, self.checks, after)
        self.authority = publisher
        if new or not self.published:
            self.token = Token(self.token.epoch, self.token.revision + 1)
            old = {name: self.variables.get(name) for name in new}
            self.history.append(Change(self.token, time.time(), author, reason, old, new))
            self.variables = after
        self.trim()
        return self.token

    def confirm(self, looked_at: float, heard: Heard | None) -> None:
        """Move ``confirmed_at``, which only grows unless a clock was set back, and begin the TTL anew."""
        now = time.time()
        looked_at = min(now, looked_at)
        if looked_at > self.confirmed_at or self.confirmed_at > now:
            self.confirmed_at = looked_at
        self.heard = heard
        self.live()

    def live(self) -> None:
        """Begins the TTL anew."""
        ttl_s = self.retention.ttl_s
        self.expires_at = None if ttl_s is None else time.time() + ttl_s

    def trim(self) -> None:
        """Forgets what the retention doesn't keep."""
        while len(self.history) > self.retention.revisions:
            self.history.popleft()
        age_s = self.retention.age_s
        while age_s is not None and len(self.history) > 1 and self.history[0].at < time.time() - age_s:
            self.history.popleft()

    def state_at(self, token: Token) -> Variables:
        """Returns the variables as they were at a token, or raises why they can't be known."""
        if token > self.token:
            raise RevisionNotReachedError(self.name, str(token), str(self.token), 0.0)
        self.trim()
        if token in self.labelled:
            return self.labelled[token]
        if not self.lineage.holds(token) or token.revision < self.oldest().revision:
            raise RevisionLostError(self.name, str(token), str(self.oldest()))
        past: dict[str, Variable | None] = dict(self.variables)
        for change in reversed(self.history):
            if change.token.revision > token.revision:
                past.update(change.before)
        return MappingProxyType(present(past))

    def label(self, name: str, token: Token, expected: Token | None, author: str, reason: str) -> None:
        """Points a label at a token."""
        found = self.labels[name].token if name in self.labels else Token(0, 0)
        if expected is not None and expected != found:
            raise LabelMovedError(self.name, str(expected), str(found), name)
        self.labelled[token] = self.state_at(token)
        self.labels[name] = Label(token, time.time(), author, reason)
        self.forget_unlabelled()

    def forget_unlabelled(self) -> None:
        """Lets go of the states that no label names any more."""
        named = {label.token for label in self.labels.values()}
        self.labelled = {token: state for token, state in self.labelled.items() if token in named}

    def snapshot(self, token: Token, variables: Variables) -> Snapshot:
        """Returns the snapshot of one of the session's states."""
        return Snapshot(self.name, token, variables, self.confirmed_at, self.lineage, self.authority, self.heard)

    def head(self) -> Head:
        """Returns where the session is."""
        return Head(self.token, self.authority, self.fence, self.confirmed_at, time.time(), self.heard)


def present(variables: Changes) -> dict[str, Variable]:
    """Returns the variables that are there."""
    return {name: variable for name, variable in variables.items() if variable is not None}
