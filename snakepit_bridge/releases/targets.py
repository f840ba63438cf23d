"""What rollouts stage, each behind the same two calls: read how it stands, and take a step by compare-and-set."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from snakepit_bridge.exceptions import SessionNotFoundError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.rollouts.events import MAX_EVENTS, RolloutEvent
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutRecord
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.acknowledgements import Acks
from snakepit_bridge.snapshots.snapshot import Snapshot


@dataclass(frozen=True, slots=True)
class TargetState:
    """How a target stands.

    Attributes:
        record: its rollout, decided or not.
        policy: the rollout's policy as text; None if it has none any more.
        now_s: the time by the store's clock, in Unix seconds.
        refusals: why live processes refuse the candidate.
        events: what has happened to its rollouts, oldest first.
    """

    record: RolloutRecord
    policy: str | None
    now_s: float
    refusals: tuple[str, ...] = ()
    events: tuple[RolloutEvent, ...] = ()


class RolloutTarget(Protocol):
    """What a rollout stages."""

    @property
    def name(self) -> TargetName:
        """Its name."""
        ...

    async def load(self) -> TargetState | None:
        """Return how it stands; None if it has no rollout.

        Raises:
            BridgeError: it can't be read.
        """
        ...

    async def require(self) -> None:
        """Check that there is such a session or label, staged or not.

        Raises:
            SessionNotFoundError: the session was never published.
            ProgramNotFoundError: there is no such program or label.
            BridgeError: it can't be read.
        """
        ...

    async def step(self, before: RolloutRecord, event: RolloutEvent) -> RolloutRecord:
        """Change the rollout to the record of an event, and return that.

        Raises:
            RolloutMovedError: the record isn't ``before`` any more.
            StoreUnavailableError: the store is unreachable.
        """
        ...

    async def events(self, after: str = "", limit: int = 100) -> Sequence[RolloutEvent]:
        """Return what has happened to its rollouts, oldest first.

        Args:
            after: the position of an event: only those behind it are returned.
            limit: how many at most.

        Raises:
            BridgeError: they can't be read.
        """
        ...


async def load_superseded(target: RolloutTarget) -> TargetState | None:
    """Return how the last rollout of a target ended that hasn't any now; None if it was never staged.

    Raises:
        BridgeError: there is no such target, or it can't be read.
    """
    await target.require()
    events: tuple[RolloutEvent, ...] = ()
    while newer := await target.events(events[-1].position if events else "", MAX_EVENTS):
        events = (*events, *newer)[-MAX_EVENTS:]
    return TargetState(events[-1].record, None, events[-1].at, events=events) if events else None


class RolloutHistory:
    """The events of one target, read anew only once its record has changed.

    Args:
        target: the target.
    """

    def __init__(self, target: RolloutTarget) -> None:
        self._target = target
        self._events: tuple[RolloutEvent, ...] = ()
        self._read_at: RolloutRecord | None = None

    async def read(self, record: RolloutRecord) -> tuple[RolloutEvent, ...]:
        """Return the events, at least up to that of a record."""
        if record != self._read_at:
            after = self._events[-1].position if self._events else ""
            while newer := await self._target.events(after, MAX_EVENTS):
                self._events = (*self._events, *newer)[-MAX_EVENTS:]
                after = newer[-1].position
            self._read_at = record
        return self._events


class SessionTarget:
    """A session whose revisions are staged.

    Args:
        name: of the session.
        store: the snapshots.
        acks: which processes refuse which revision; None to ask nobody.
    """

    def __init__(self, name: TargetName, store: SnapshotStore, acks: Acks | None) -> None:
        self.name = name
        self._store = store
        self._acks = acks
        self._latest: Snapshot | None = None
        self._history = RolloutHistory(self)

    async def load(self) -> TargetState | None:
        """Return how the session stands; None if it has no rollout."""
        session = self.name.name
        try:
            head = await self._store.head(session)
            if head.rollout is None:
                return None
            self._latest = await self._store.read(session, self._latest)
        except SessionNotFoundError:
            return None
        record = self._latest.rollout
        if record is None:
            return None
        policy = self._latest.variables.get(POLICY_VARIABLE)
        return TargetState(
            record,
            None if policy is None else str(policy.value),
            head.now,
            await self._read_refusals(record) if record.is_open else (),
            await self._history.read(record),
        )

    async def require(self) -> None:
        """Check that the session was published."""
        await self._store.head(self.name.name)

    async def step(self, before: RolloutRecord, event: RolloutEvent) -> RolloutRecord:
        """Change the session's rollout to the record of an event, and return that."""
        return await self._store.step_rollout(self.name.name, before, event)

    async def events(self, after: str = "", limit: int = 100) -> list[RolloutEvent]:
        """Return what has happened to the session's rollouts, oldest first."""
        return await self._store.rollout_events(self.name.name, after, limit)

    async def _read_refusals(self, record: RolloutRecord) -> tuple[str, ...]:
        if self._acks is None:
            return ()
        candidate = Token.parse(record.candidate)
        acks = await self._acks.read_acks(self.name.name)
        return tuple(f"{ack.process}: {ack.error}" for ack in acks if ack.error and ack.token == candidate)
