"""Open the targets of one fleet by their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.releases.targets import RolloutTarget, SessionTarget
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.acknowledgements import Acks

if TYPE_CHECKING:
    from snakepit_bridge.programs.registry import ProgramRegistry


@dataclass(frozen=True, slots=True)
class TargetOpener:
    """Opens the targets of one fleet.

    Attributes:
        store: the sessions.
        acks: which processes refuse which revision.
        open_registry: returns the programs; it is called for a program alone, since programs load DSPy.
    """

    store: SnapshotStore
    acks: Acks
    open_registry: Callable[[], ProgramRegistry]

    def __call__(self, name: TargetName) -> RolloutTarget:
        """Return a target; nothing is read yet."""
        if name.kind == "session":
            return SessionTarget(name, self.store, self.acks)
        from snakepit_bridge.programs.rollouts import ProgramRollouts
        from snakepit_bridge.releases.program_target import ProgramTarget

        return ProgramTarget(name, ProgramRollouts(self.open_registry()))
