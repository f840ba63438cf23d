"""StagingStore: the part of a snapshot store that rollouts and experiments of sessions use."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import suppress

from snakepit_bridge.exceptions import RevisionLostError, RevisionNotReachedError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent
from snakepit_bridge.rollouts.records import RolloutRecord
from snakepit_bridge.snapshots.snapshot import Snapshot


class StagingStore(ABC):
    """The records of what is staged or tried on each session, and the baseline of a staged snapshot."""

    @abstractmethod
    async def _read_at(self, session: str, token: Token) -> Snapshot: ...

    async def step_rollout(self, session: str, before: RolloutRecord | None, event: RolloutEvent) -> RolloutRecord:
        """Change the record of a session's rollout to that of an event, and return it.

        Args:
            session: the session.
            before: the record that it must be now; None for none.
            event: what happens, with the new record.

        Raises:
            RolloutMovedError: the record is another one.
            SessionNotFoundError: the session hasn't been published.
            StoreUnavailableError: the store is unreachable.
        """
        await self._step_rollout(session, "" if before is None else str(before), event)
        return event.record

    @abstractmethod
    async def _step_rollout(self, session: str, before: str, event: RolloutEvent) -> None: ...

    @abstractmethod
    async def rollout_events(self, session: str, after: str = "", limit: int = 100) -> list[RolloutEvent]:
        """Return what has happened to the rollouts of a session, oldest first.

        Args:
            session: the session.
            after: the position of an event: only those behind it are returned.
            limit: how many at most.

        Raises:
            SessionNotFoundError: the session hasn't been published.
            StoreUnavailableError: the store is unreachable.
        """

    async def change_experiments(
        self, session: str, before: str, after: str, event: ExperimentEvent, approval: str = ""
    ) -> None:
        """Change the experiments that run on a session.

        Args:
            session: the session.
            before: the text that they must have now, as ``Head.experiments`` has it.
            after: the new text; the revisions of its arms stay readable while they are in it.
            event: what happens.
            approval: the id of the request for it that was approved.

        Raises:
            RolloutMovedError: they are others.
            ApprovalRequiredError: a rule protects the session, and one is to start.
            RolloutOverlapError: one is to start, and the session has an open rollout.
            RevisionLostError: the revision of an arm can't be read.
            SessionNotFoundError: the session hasn't been published.
            StoreUnavailableError: the store is unreachable.
        """
        await self._change_experiments(session, before, after, event, approval)

    @abstractmethod
    async def _change_experiments(
        self, session: str, before: str, after: str, event: ExperimentEvent, approval: str
    ) -> None: ...

    @abstractmethod
    async def experiment_events(self, session: str, after: str = "", limit: int = 100) -> list[ExperimentEvent]:
        """Return what has happened to the experiments of a session, as :meth:`rollout_events` does."""

    async def with_baseline(self, snapshot: Snapshot, have: Snapshot | None) -> Snapshot:
        """Return a staged snapshot with that of its rollout's baseline, and another one without.

        Args:
            snapshot: what was read.
            have: what the reader had before, which may be the baseline, or have it.

        Raises:
            StoreUnavailableError: the store is unreachable.
        """
        record = snapshot.rollout
        if record is None or not record.is_staged:
            return snapshot.with_staging(record, None, snapshot.experiments)
        token = Token.parse(record.baseline)
        held = (have, None if have is None else have.baseline)
        known = next((each for each in held if each is not None and each.token == token), None)
        if known is None:
            with suppress(RevisionLostError, RevisionNotReachedError):
                known = await self._read_at(snapshot.session, token)
        return snapshot.with_staging(record, known and known.with_staging(None, None), snapshot.experiments)
