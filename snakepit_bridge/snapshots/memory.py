"""The in-memory snapshot store, for tests, examples and programs without a fleet.

It fulfils the whole interface, except that its sessions end with the process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping

from typing_extensions import override

from snakepit_bridge.audit.change_control import ChangeControl, ControlledChange
from snakepit_bridge.exceptions import (
    BridgeError,
    RevisionLostError,
    SessionError,
    SessionNotFoundError,
)
from snakepit_bridge.protocol.token import Token, new_epoch
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent
from snakepit_bridge.snapshots import checks as checking
from snakepit_bridge.snapshots.checks import Check
from snakepit_bridge.snapshots.controlled import (
    Attribution,
    describe_checks,
    describe_drop,
    describe_experiment,
    describe_label,
    describe_publish,
    describe_retention,
    describe_rollback,
)
from snakepit_bridge.snapshots.memory_changes import MemoryChanges
from snakepit_bridge.snapshots.memory_session import MemorySession
from snakepit_bridge.snapshots.memory_watch import MemoryWatch, WatchRegistry
from snakepit_bridge.snapshots.records import (
    DEFAULT_REVISIONS,
    STORE,
    Change,
    Changes,
    Confirmation,
    Head,
    Label,
    Retention,
    check_changes,
)
from snakepit_bridge.snapshots.snapshot import AuthoritySign, Lineage, Snapshot
from snakepit_bridge.snapshots.store import SnapshotStore
from snakepit_bridge.snapshots.watch import Watch


class MemoryStore(SnapshotStore):
    """Sessions in memory, shared by every thread and event loop of the process.

    Args:
        retention: default retention of sessions; a number is that of revisions.
    """

    def __init__(self, *, retention: Retention | int = DEFAULT_REVISIONS) -> None:
        self._retention = Retention.of(retention)
        self._sessions: dict[str, MemorySession] = {}
        self._kept: dict[tuple[str, Token], tuple[float, Snapshot]] = {}
        self._last_epoch = 0
        self._lock = threading.Lock()
        self._watches = WatchRegistry()
        self._changes = MemoryChanges(self._lock)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self._sessions)} sessions)"

    @property
    @override
    def change_control(self) -> ChangeControl:
        return self._changes.control

    @override
    async def publish(
        self,
        session: str,
        changes: Changes,
        *,
        replace: bool = False,
        expected: Token | None = None,
        fence: int | None = None,
        publisher: str = STORE,
        author: str = "",
        reason: str = "",
        age_s: float = 0.0,
        looked_at: float | None = None,
        heard: AuthoritySign | None = None,
        approval: str = "",
    ) -> Token:
        check_changes(changes, publisher)
        by = Attribution(author, reason, approval, publisher)
        change = describe_publish(session, changes, by, expected, fence, replace=replace)

        def publish() -> Token:
            state = self._get(session) or self._create(session)
            self._changes.check_approval(change)
            state.check_publish(publisher, fence, expected)
            gone: Changes = dict.fromkeys(state.variables) if replace else {}
            self._commit(state, {**gone, **changes}, by, change, staged=True)
            state.confirm(time.time() - age_s if looked_at is None else looked_at, heard)
            return state.token

        return await self._changes.carry_out(change, publish)

    async def _rollback(
        self,
        session: str,
        to: Token,
        expected: Token | None,
        fence: int | None,
        publisher: str,
        author: str,
        reason: str,
        approval: str,
    ) -> Token:
        by = Attribution(author, reason, approval, publisher)
        change = describe_rollback(session, to, by, expected, fence)

        def roll_back() -> Token:
            state = self._require(session)
            self._changes.check_approval(change)
            state.check_publish(publisher, fence, expected)
            past = {**dict.fromkeys(state.variables), **state.state_at(to)}
            self._commit(state, past, by, change, staged=False)
            state.confirm(time.time(), None)
            return state.token

        return await self._changes.carry_out(change, roll_back)

    @override
    async def read(self, session: str, have: Snapshot | None = None) -> Snapshot:
        with self._lock:
            state = self._require(session)
            if have is not None and have.token == state.token:
                found = have.with_confirmation(state.confirmed_at, state.heard)
            else:
                found = state.snapshot(state.token, state.variables)
            found = found.with_staging(state.rollout, found.baseline, state.experiments)
        return await self.with_baseline(found, have)

    async def _read_at(self, session: str, token: Token) -> Snapshot:
        with self._lock:
            try:
                state = self._require(session)
                return state.snapshot(token, state.state_at(token))
            except (RevisionLostError, SessionNotFoundError):
                until, kept = self._kept.get((session, token), (0.0, None))
                if kept is None or until < time.time():
                    raise
                return kept

    @override
    async def confirm(self, looks: Mapping[str, Confirmation], *, publisher: str) -> dict[str, BridgeError]:
        refused: dict[str, BridgeError] = {}
        with self._lock:
            for session, look in looks.items():
                try:
                    state = self._require(session)
                    state.check_publish(publisher, look.fence, look.expected)
                    state.confirm(look.looked_at, look.heard)
                except SessionError as exc:
                    refused[session] = exc
        return refused

    @override
    async def keep(self, snapshot: Snapshot, seconds: float) -> None:
        with self._lock:
            now = time.time()
            self._kept = {key: kept for key, kept in self._kept.items() if kept[0] >= now}
            key = (snapshot.session, snapshot.token)
            until = max(now + seconds, self._kept.get(key, (0.0,))[0])
            self._kept[key] = (until, snapshot)

    @override
    async def head(self, session: str) -> Head:
        with self._lock:
            return self._require(session).head()

    @override
    async def history(self, session: str, limit: int = 20) -> list[Change]:
        with self._lock:
            state = self._require(session)
            state.trim()
            return list(reversed(state.history))[:limit]

    async def _label(
        self, session: str, name: str, token: Token, expected: Token | None, author: str, reason: str, approval: str
    ) -> Token:
        change = describe_label(session, name, token, Attribution(author, reason, approval), expected)

        def label() -> Token:
            state = self._require(session)
            self._changes.check_approval(change)
            before = state.check_label(name, token, expected)
            self._changes.guard(change, str(before))
            state.label(name, token, author, reason)
            self._changes.record(change, str(before) if before.revision else "", str(token))
            return token

        return await self._changes.carry_out(change, label)

    @override
    async def unlabel(self, session: str, name: str, *, author: str = "", reason: str = "", approval: str = "") -> None:
        change = describe_label(session, name, None, Attribution(author, reason, approval))

        def unlabel() -> None:
            state = self._require(session)
            self._changes.check_approval(change)
            label = state.labels.get(name)
            if label is not None:
                self._changes.guard(change, str(label.token))
                del state.labels[name]
                state.forget_unlabelled()
                self._changes.record(change, str(label.token))

        await self._changes.carry_out(change, unlabel)

    @override
    async def labels(self, session: str) -> dict[str, Label]:
        with self._lock:
            return dict(sorted(self._require(session).labels.items()))

    @override
    async def declare_checks(
        self,
        session: str,
        checks: Mapping[str, Check | None],
        *,
        publisher: str = STORE,
        author: str = "",
        reason: str = "",
    ) -> None:
        change = describe_checks(session, checks, Attribution(author, reason, publisher=publisher))
        declared = {
            name: checking.decode_check(checking.encode_check(name, check)) for name, check in checks.items() if check
        }

        def declare() -> None:
            state = self._get(session) or self._create(session)
            state.check_owner(publisher)
            kept = {name: check for name, check in state.checks.items() if name not in checks}
            if state.published:
                checking.enforce_checks(session, declared, state.variables)
            self._sessions[session] = state
            state.checks = kept | declared
            self._changes.record(change, *(2 * (str(state.token),) if state.published else ()))

        await self._changes.carry_out(change, declare)

    @override
    async def checks(self, session: str) -> dict[str, Check]:
        with self._lock:
            state = self._get(session)
            return {} if state is None else dict(sorted(state.checks.items()))

    @override
    async def retain(self, session: str, retention: Retention | None, *, author: str = "", reason: str = "") -> None:
        with self._lock:
            state = self._require(session)
            if state.own_retention != retention:
                change = describe_retention(session, Attribution(author, reason))
                self._changes.record(change, str(state.token), str(state.token))
            state.own_retention, state.default_retention = retention, self._retention
            state.trim()
            state.renew_ttl()

    @override
    async def retention(self, session: str) -> Retention | None:
        with self._lock:
            return self._require(session).own_retention

    async def _step_rollout(self, session: str, before: str, event: RolloutEvent) -> None:
        with self._lock:
            state = self._require(session)
            state.step_rollout(before, event)
            self._changes.record_event(session, event)
            self._watches.notify(session, state.token)

    @override
    async def rollout_events(self, session: str, after: str = "", limit: int = 100) -> list[RolloutEvent]:
        with self._lock:
            return [event for event in self._require(session).rollout_events if event.position > after][:limit]

    async def _change_experiments(
        self, session: str, before: str, after: str, event: ExperimentEvent, approval: str
    ) -> None:
        control = describe_experiment(session, before, after, event, approval)

        def change() -> None:
            state = self._require(session)
            self._changes.check_approval(control)
            state.check_experiments(before, after, event)
            self._changes.guard(control, str(state.token))
            state.change_experiments(after, event)
            self._changes.record(control, "", str(state.token))
            self._watches.notify(session, state.token)

        await self._changes.carry_out(control, change)

    @override
    async def experiment_events(self, session: str, after: str = "", limit: int = 100) -> list[ExperimentEvent]:
        with self._lock:
            return [event for event in self._require(session).experiment_events if event.position > after][:limit]

    @override
    async def raise_fence(self, session: str, *, publisher: str) -> int:
        with self._lock:
            state = self._get(session) or self._create(session)
            state.check_owner(publisher)
            self._sessions[session] = state
            state.authority = publisher
            state.fence = max(_now_us(), state.fence + 1)
            return state.fence

    @override
    async def sessions(self) -> dict[str, Head]:
        return await self.heads(sorted(self._sessions))

    @override
    async def heads(self, sessions: Iterable[str]) -> dict[str, Head]:
        with self._lock:
            found = {name: self._get(name) for name in sessions}
            return {name: state.head() for name, state in found.items() if state is not None and state.published}

    @override
    async def drop(self, session: str, *, author: str = "", reason: str = "", approval: str = "") -> None:
        change = describe_drop(session, Attribution(author, reason, approval))

        def drop() -> None:
            self._changes.check_approval(change)
            state = self._sessions.get(session)
            if state is not None:
                if state.published and state.authority == STORE:
                    self._changes.guard(change, str(state.token))
                del self._sessions[session]
                self._watches.notify(session, None)
                self._changes.record(change, str(state.token))

        await self._changes.carry_out(change, drop)

    @override
    def open_watch(self) -> Watch:
        return MemoryWatch(self._watches)

    async def aclose(self) -> None:
        """Do nothing: there are no connections."""

    def _commit(
        self, state: MemorySession, updates: Changes, by: Attribution, change: ControlledChange, *, staged: bool
    ) -> None:
        before, state.default_retention = state.token, self._retention
        old = str(before) if state.published else ""
        if state.check(updates) != state.variables or not state.published:
            self._changes.guard(change, old or str(Token(0, 0)))
        events = len(state.rollout_events)
        token = state.commit(updates, by.publisher, by.author, by.reason, staged=staged)
        self._sessions[state.name] = state
        if token != before or by.approval:
            changed = state.history[-1].after if token != before else ()
            self._changes.record(change, old, str(token), changed)
            for event in list(state.rollout_events)[events:]:
                self._changes.record_event(state.name, event)
        if token != before:
            self._watches.notify(state.name, token)

    def _get(self, session: str) -> MemorySession | None:
        state = self._sessions.get(session)
        if state is not None and state.expires_at is not None and state.expires_at <= time.time():
            del self._sessions[session]
            return None
        return state

    def _require(self, session: str) -> MemorySession:
        state = self._get(session)
        if state is None or not state.published:
            raise SessionNotFoundError(session)
        return state

    def _create(self, session: str) -> MemorySession:
        # Larger than any before, so that a dropped session's tokens never identify a state of its successor.
        self._last_epoch = new_epoch(self._last_epoch)
        return MemorySession(
            session, Lineage().with_epoch(self._last_epoch, 0), Token(self._last_epoch, 0), self._retention
        )


def _now_us() -> int:
    return time.time_ns() // 1_000
