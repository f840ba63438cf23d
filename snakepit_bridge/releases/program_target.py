"""A label of a program whose versions are staged."""

from __future__ import annotations

from snakepit_bridge.programs.rollouts import ProgramRollouts
from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.releases.targets import RolloutHistory, TargetState
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.records import RolloutRecord


class ProgramTarget:
    """A label of a program whose versions are staged.

    Args:
        name: of the label.
        rollouts: those of the registry.
    """

    def __init__(self, name: TargetName, rollouts: ProgramRollouts) -> None:
        self.name = name
        self._rollouts = rollouts
        self._history = RolloutHistory(self)

    async def load(self) -> TargetState | None:
        """Return how the label stands; None if it has no rollout."""
        found = await self._rollouts.read(self.name.name, self.name.label)
        if found is None:
            return None
        events = await self._history.read(found.record)
        return TargetState(found.record, found.policy, found.now_s, events=events)

    async def require(self) -> None:
        """Check that the label points at a version."""
        await self._rollouts.require(self.name.name, self.name.label)

    async def step(self, before: RolloutRecord, event: RolloutEvent) -> RolloutRecord:
        """Change the label's rollout to the record of an event, and return that."""
        return await self._rollouts.step(self.name.name, self.name.label, before, event)

    async def events(self, after: str = "", limit: int = 100) -> list[RolloutEvent]:
        """Return what has happened to the label's rollouts, oldest first."""
        return await self._rollouts.events(self.name.name, self.name.label, after, limit)
