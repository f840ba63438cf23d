"""Experiments with revisions of a session."""

from __future__ import annotations

from collections.abc import Callable

from typing_extensions import override

from snakepit_bridge.exceptions import (
    ExperimentError,
    LabelNotFoundError,
    RevisionLostError,
    RevisionNotReachedError,
    RolloutMovedError,
)
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent
from snakepit_bridge.rollouts.target_experiments import TargetExperiments
from snakepit_bridge.session_context import SessionContext
from snakepit_bridge.snapshots import SnapshotStore


class SessionExperiments(TargetExperiments):
    """The experiments on a session.

    Args:
        store: the sessions.
        session: the session's name.
        open_session: returns a session by its name, for an author to publish in.
    """

    def __init__(self, store: SnapshotStore, session: str, open_session: Callable[[str, str], SessionContext]) -> None:
        super().__init__(f"session:{session}")
        self._store, self._session, self._open_session = store, session, open_session

    @override
    async def events(self, after: str = "", limit: int = 100) -> list[ExperimentEvent]:
        return await self._store.experiment_events(self._session, after, limit)

    @override
    async def _load(self) -> str:
        return (await self._store.head(self._session)).experiments

    @override
    async def _locate(self, experiment: str, where: str, revision: str) -> str:
        try:
            return str((await self._store.read_at(self._session, revision)).token)
        except (LabelNotFoundError, RevisionLostError, RevisionNotReachedError, ValueError) as exc:
            raise ExperimentError(experiment, where, str(exc)) from None

    @override
    async def _replace(self, before: str, after: str, event: ExperimentEvent) -> None:
        winner = event.experiment.winner
        if winner:
            if await self._load() != before:
                raise RolloutMovedError(self.target, before, "others")
            # Before the experiment ends, so that whoever is interrupted in between can decide again: an equal state is
            # no further revision.
            reason = event.reason or f"experiment '{event.experiment.name}' was decided for '{winner}'"
            context = self._open_session(self._session, event.author)
            await context.rollback(event.experiment.arm(winner).revision, reason=reason)
        await self._store.change_experiments(self._session, before, after, event)
