"""One session of the memory store: its state and its history. The store's lock guards it."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from uuid import uuid4

from snakepit_bridge.exceptions import (
    FencedError,
    LabelMovedError,
    RevisionLostError,
    RevisionNotReachedError,
    RolloutMovedError,
    RolloutOverlapError,
    SessionOwnedElsewhereError,
    StaleTokenError,
)
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.events import MAX_EVENTS, RolloutEvent
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent
from snakepit_bridge.rollouts.experiments import parse_experiments
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RESERVED_PREFIX, RolloutRecord, RolloutState
from snakepit_bridge.snapshots import checks
from snakepit_bridge.snapshots.checks import Check
from snakepit_bridge.snapshots.records import Change, Changes, Head, Label, Retention
from snakepit_bridge.snapshots.snapshot import AuthoritySign, Lineage, Snapshot
from snakepit_bridge.variables import Variable

# A fence or a check may precede the first publish, but expires without one.
UNPUBLISHED_TTL_S = 86_400.0

Variables = Mapping[str, Variable]
_EMPTY: Variables = MappingProxyType({})


@dataclass(slots=True)
class MemorySession:
    """A session's state and history."""

    name: str
    lineage: Lineage
    token: Token
    default_retention: Retention
    history: deque[Change] = field(default_factory=deque[Change])
    variables: Variables = field(default_factory=lambda: _EMPTY)
    authority: str = ""
    fence: int = 0
    confirmed_at: float = 0.0
    heard: AuthoritySign | None = None
    labels: dict[str, Label] = field(default_factory=dict[str, Label])
    labelled: dict[Token, Variables] = field(default_factory=dict[Token, Variables])
    checks: dict[str, Check] = field(default_factory=dict[str, Check])
    own_retention: Retention | None = None
    rollout: RolloutRecord | None = None
    experiments: str = ""
    experiment_events: deque[ExperimentEvent] = field(default_factory=lambda: deque[ExperimentEvent](maxlen=MAX_EVENTS))
    rollout_events: deque[RolloutEvent] = field(default_factory=lambda: deque[RolloutEvent](maxlen=MAX_EVENTS))
    expires_at: float | None = field(default_factory=lambda: time.time() + UNPUBLISHED_TTL_S)

    @property
    def published(self) -> bool:
        """Whether it was ever published; a fence or checks can precede that."""
        return self.token.revision > 0

    @property
    def retention(self) -> Retention:
        """The session's own retention, else the store's default."""
        return self.own_retention or self.default_retention

    def oldest(self) -> Token:
        """Return the oldest token that can be restored: undoing the oldest change gives the state before it."""
        return self.lineage.token(max(1, self.history[0].token.revision - 1))

    def check_publish(self, publisher: str, fence: int | None, expected: Token | None) -> None:
        """Check that a publisher may publish now.

        Raises:
            SessionOwnedElsewhereError: another publisher is the authority.
            FencedError: the fence isn't the current one.
            StaleTokenError: the session isn't at ``expected``.
        """
        self.check_owner(publisher)
        if (fence or 0) != self.fence:
            raise FencedError(self.name, fence or 0, self.fence)
        current = self.token if self.published else Token(0, 0)
        if expected is not None and expected != current:
            raise StaleTokenError(self.name, str(expected), str(current))

    def check_owner(self, publisher: str) -> None:
        """Check that no other publisher is the authority.

        Raises:
            SessionOwnedElsewhereError: another publisher is the authority.
        """
        if self.authority not in ("", publisher):
            raise SessionOwnedElsewhereError(self.name, self.authority, publisher)

    def check(self, updates: Changes) -> Variables:
        """Return the variables after the updates, if they pass the session's checks.

        Raises:
            CheckFailedError: the new state fails a check.
        """
        after = MappingProxyType(drop_missing({**self.variables, **updates}))
        checks.enforce_checks(self.name, self.checks, after)
        return after

    def commit(self, updates: Changes, publisher: str, author: str, reason: str, *, staged: bool = True) -> Token:
        """Commit the updates as one revision, if they change anything, and have it staged if the session asks for it.

        Raises:
            CheckFailedError: the new state fails a check.
        """
        new = {name: variable for name, variable in updates.items() if variable != self.variables.get(name)}
        after = self.check(new)
        self.authority = publisher
        if new or not self.published:
            before, was_published = self.token, self.published
            self.token = Token(self.token.epoch, self.token.revision + 1)
            old = {name: self.variables.get(name) for name in new}
            self.history.append(Change(self.token, time.time(), author, reason, old, new))
            self.variables = after
            if was_published:
                self._stage(before, new, author, reason, staged=staged)
        self.trim()
        return self.token

    def confirm(self, looked_at: float, heard: AuthoritySign | None) -> None:
        """Advance ``confirmed_at``, which only grows unless a clock was set back, and renew the TTL."""
        now = time.time()
        looked_at = min(now, looked_at)
        if looked_at > self.confirmed_at or self.confirmed_at > now:
            self.confirmed_at = looked_at
        self.heard = heard
        self.renew_ttl()

    def renew_ttl(self) -> None:
        """Renew the TTL."""
        ttl_s = self.retention.ttl_s
        self.expires_at = None if ttl_s is None else time.time() + ttl_s

    def trim(self) -> None:
        """Trim the history to the retention."""
        while len(self.history) > self.retention.revisions:
            self.history.popleft()
        age_s = self.retention.age_s
        while age_s is not None and len(self.history) > 1 and self.history[0].at < time.time() - age_s:
            self.history.popleft()

    def state_at(self, token: Token) -> Variables:
        """Return the variables at a token.

        Raises:
            RevisionNotReachedError: the token hasn't been published.
            RevisionLostError: it was trimmed, or lost with an older epoch.
        """
        if token > self.token:
            raise RevisionNotReachedError(self.name, str(token), str(self.token), 0.0)
        self.trim()
        if token in self.labelled:
            return self.labelled[token]
        if not self.lineage.contains(token) or token.revision < self.oldest().revision:
            raise RevisionLostError(self.name, str(token), str(self.oldest()))
        past: dict[str, Variable | None] = dict(self.variables)
        for change in reversed(self.history):
            if change.token.revision > token.revision:
                past.update(change.before)
        return MappingProxyType(drop_missing(past))

    def check_label(self, name: str, token: Token, expected: Token | None) -> Token:
        """Return what a label is at, if it may be moved to a token.

        Raises:
            LabelMovedError: the label isn't at ``expected``.
            RevisionLostError, RevisionNotReachedError: the token can't be read.
        """
        current = self.labels[name].token if name in self.labels else Token(0, 0)
        if expected is not None and expected != current:
            raise LabelMovedError(self.name, str(expected), str(current), name)
        self.state_at(token)
        return current

    def label(self, name: str, token: Token, author: str, reason: str) -> None:
        """Point a label at a token."""
        self.labelled[token] = self.state_at(token)
        self.labels[name] = Label(token, time.time(), author, reason)
        self.forget_unlabelled()

    def forget_unlabelled(self) -> None:
        """Drop the states without a label."""
        tokens = {label.token for label in self.labels.values()}
        if self.rollout is not None and self.rollout.is_staged:
            tokens.add(Token.parse(self.rollout.baseline))
        tokens |= _arms(self.experiments)
        self.labelled = {token: state for token, state in self.labelled.items() if token in tokens}

    def step_rollout(self, before: str, event: RolloutEvent) -> None:
        """Change the rollout.

        Raises:
            RolloutMovedError: its record isn't as expected.
        """
        current = "" if self.rollout is None else str(self.rollout)
        if current != before:
            raise RolloutMovedError(f"session:{self.name}", before, current)
        self.rollout = event.record
        self.forget_unlabelled()
        self._record_event(event)

    def check_experiments(self, before: str, after: str, event: ExperimentEvent) -> None:
        """Check that the experiments may change.

        Raises:
            RolloutMovedError: they aren't as expected.
            RolloutOverlapError: one is to start, and a rollout is open.
            RevisionLostError: the revision of an arm can't be read.
        """
        target = f"session:{self.name}"
        if self.experiments != before:
            raise RolloutMovedError(target, before, self.experiments)
        if event.kind == "started" and self.rollout is not None and self.rollout.is_open:
            raise RolloutOverlapError(target, f"rollout {self.rollout.id}")
        for token in _arms(after):
            self.state_at(token)

    def change_experiments(self, after: str, event: ExperimentEvent) -> None:
        """Change the experiments."""
        self.labelled |= {token: self.state_at(token) for token in _arms(after)}
        self.experiments = after
        self.forget_unlabelled()
        self.experiment_events.append(replace(event, at=time.time(), position=_next_position(self.experiment_events)))

    def _stage(self, before: Token, changes: Changes, author: str, reason: str, *, staged: bool) -> None:
        """Begin a rollout of the current revision, or end the one that there is: what ``stage.lua`` does."""
        if self.rollout is not None and not self.rollout.is_staged:
            self.rollout = None
        if not staged:
            self._supersede(author, reason)
        elif all(name.startswith(RESERVED_PREFIX) for name in changes):
            if self.rollout is not None:
                changed = {"sequence": self.rollout.sequence + 1, "candidate": str(self.token)}
                self.rollout = replace(self.rollout, **changed)
        elif POLICY_VARIABLE not in self.variables:
            self._supersede(author, "the session has no rollout policy any more")
        elif self.rollout is not None and self._is_back_at(Token.parse(self.rollout.baseline)):
            self._supersede(author, "the session is back at the values of its baseline")
        else:
            self._start_rollout(before, author, reason)

    def _is_back_at(self, token: Token) -> bool:
        """Check whether the session's own variables have the values of a kept state."""
        return drop_reserved(self.labelled.get(token, {})) == drop_reserved(self.variables)

    def _start_rollout(self, before: Token, author: str, reason: str) -> None:
        if self.rollout is None:
            try:
                self.labelled[before] = self.state_at(before)
            except RevisionLostError:
                return
        baseline = str(before) if self.rollout is None else self.rollout.baseline
        self.rollout = RolloutRecord(uuid4().hex[:16], 1, RolloutState.NEW, 0, 0, 0, 0, baseline, str(self.token))
        self._record_event(RolloutEvent("started", self.rollout, author, reason))

    def _supersede(self, author: str, reason: str) -> None:
        if self.rollout is not None:
            self._record_event(RolloutEvent("superseded", self.rollout, author, reason))
            self.rollout = None
            self.forget_unlabelled()

    def _record_event(self, event: RolloutEvent) -> None:
        self.rollout_events.append(replace(event, at=time.time(), position=_next_position(self.rollout_events)))

    def snapshot(self, token: Token, variables: Variables) -> Snapshot:
        """Return a snapshot of one of the session's states."""
        published_at = self.history[-1].at if token == self.token and self.history else 0.0
        heard = self.heard
        return Snapshot(
            self.name, token, variables, self.confirmed_at, self.lineage, self.authority, heard, published_at
        )

    def head(self) -> Head:
        """Return the session's head."""
        return Head(
            self.token,
            self.authority,
            self.fence,
            self.confirmed_at,
            time.time(),
            self.heard,
            self.rollout,
            self.experiments,
        )


def _arms(experiments: str) -> set[Token]:
    """Return the revisions of the arms of experiments."""
    return {Token.parse(arm.revision) for each in parse_experiments(experiments) for arm in each.arms}


def _next_position(events: Sequence[RolloutEvent] | Sequence[ExperimentEvent]) -> str:
    """Return the position of an event behind others, by the clock."""
    last = int(events[-1].position.partition("-")[0]) if events else 0
    return f"{max(round(time.time() * 1000), last + 1):013d}-0"


def drop_missing(variables: Changes) -> dict[str, Variable]:
    """Return the variables without the missing ones."""
    return {name: variable for name, variable in variables.items() if variable is not None}


def drop_reserved(variables: Variables) -> dict[str, Variable]:
    """Return the variables without the fleet's own."""
    return {name: variable for name, variable in variables.items() if not name.startswith(RESERVED_PREFIX)}
