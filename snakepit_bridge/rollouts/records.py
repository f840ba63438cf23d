"""The record of a rollout, as the store keeps it beside what it stages, and the assignment of requests by it.

A rollout stages what a name stands for: a session's ``latest`` revision, or a label of a program. Whoever resolves the
name has read the record with it, so that an assignment needs no further round trip.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

from snakepit_bridge.rollouts.assignment import MILLION, is_candidate

POLICY_VARIABLE = "dspex.rollout_policy"
"""The variable that has each new revision of its session staged; see ``policy.py`` for its value."""

RESERVED_PREFIX = "dspex."
"""How the fleet's own variables begin; a revision that changes nothing else is nothing to try."""

BASELINE, CANDIDATE = "baseline", "candidate"


class RolloutState(StrEnum):
    """How far a rollout is.

    ``new``: its first stage hasn't begun. ``running`` and ``paused``: undecided. ``rolled_back``: everybody stays with
    the baseline. ``promoted``: everybody gets the candidate.
    """

    NEW = "new"
    RUNNING = "running"
    PAUSED = "paused"
    ROLLED_BACK = "rolled_back"
    PROMOTED = "promoted"


@dataclass(frozen=True, slots=True, repr=False)
class RolloutRecord:
    """A rollout as it is stored: one line of text, its fields in this order, separated by spaces.

    Attributes:
        id: unique; also the salt of its assignment.
        sequence: a number that grows with each change of the record.
        state: see :class:`RolloutState`.
        stage: the number of its stage, from 1; 0 before the first.
        share: the candidate's share at this stage, in millionths.
        previous_share: what counts until ``since_us``.
        since_us: when this stage's share begins to count, in microseconds of the store's clock.
        baseline: what is trusted: a session's token, or ``VERSION:DIGEST`` of a program.
        candidate: what is tried, likewise.
    """

    id: str
    sequence: int
    state: RolloutState
    stage: int
    share: int
    previous_share: int
    since_us: int
    baseline: str
    candidate: str

    @property
    def is_open(self) -> bool:
        """Whether it is undecided."""
        return self.state in (RolloutState.NEW, RolloutState.RUNNING, RolloutState.PAUSED)

    @property
    def is_staged(self) -> bool:
        """Whether somebody still gets the baseline."""
        return self.state is not RolloutState.PROMOTED

    def share_at(self, now_s: float) -> int:
        """Return the candidate's share in millionths at a time of the store's clock, in Unix seconds.

        A rollback counts at once.
        """
        if self.state is RolloutState.ROLLED_BACK:
            return 0
        return self.share if self._has_begun(now_s) else self.previous_share

    def stage_at(self, now_s: float) -> int:
        """Return the number of the stage whose share counts at a time of the store's clock, in Unix seconds."""
        return self.stage if self._has_begun(now_s) else self.stage - 1

    def _has_begun(self, now_s: float) -> bool:
        return now_s * 1e6 >= self.since_us

    def change(
        self, state: RolloutState, *, stage: int | None = None, share: int | None = None, since_us: int = 0
    ) -> RolloutRecord:
        """Return the record after a change.

        Args:
            state: the new one.
            stage, share: the new ones; those that it has if None.
            since_us: when a new share begins to count, in microseconds of the store's clock.
        """
        return replace(
            self,
            sequence=self.sequence + 1,
            state=state,
            stage=self.stage if stage is None else stage,
            share=self.share if share is None else share,
            previous_share=self.previous_share if share is None else self.share,
            since_us=self.since_us if share is None else since_us,
        )

    def as_dict(self) -> dict[str, Any]:
        """Return what people want to know of it, as JSON values; the share is a number up to 1."""
        return {
            "id": self.id,
            "state": self.state.value,
            "stage": self.stage,
            "share": self.share / MILLION,
            "since": self.since_us / 1e6,
            "baseline": self.baseline,
            "candidate": self.candidate,
        }

    def __repr__(self) -> str:
        stage = f"stage={self.stage}, share={self.share / MILLION:g}"
        arms = f"baseline={self.baseline!r}, candidate={self.candidate!r}"
        return f"{type(self).__name__}(id={self.id!r}, state={self.state.value!r}, {stage}, {arms})"

    def __str__(self) -> str:
        numbers = (self.stage, self.share, self.previous_share, self.since_us)
        return " ".join(map(str, (self.id, self.sequence, self.state, *numbers, self.baseline, self.candidate)))

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse the form of ``str``.

        Raises:
            ValueError: the text is something else.
        """
        try:
            name, sequence, state, *numbers, baseline, candidate = text.split(" ")
            stage, share, previous, since = map(int, numbers)
            record = cls(name, int(sequence), RolloutState(state), stage, share, previous, since, baseline, candidate)
        except ValueError:
            raise ValueError(f"This is no record of a rollout: {text[:120]!r}") from None
        if not (0 <= share <= MILLION and 0 <= previous <= MILLION):
            raise ValueError(f"A rollout's shares are 0 to {MILLION}: {text[:120]!r}")
        return record


@dataclass(frozen=True, slots=True)
class ArmAssignment:
    """The arm of a rollout that a request runs under.

    Attributes:
        rollout: the rollout's id.
        arm: ``baseline`` or ``candidate``.
        stage: the rollout's stage that it was assigned under; 0 before the first one.
        target: what the rollout stages: ``session:NAME`` or ``program:NAME@LABEL``.
        experiment: the name of the experiment, where it is one: ``rollout`` is its id then, and ``stage`` 0.
    """

    rollout: str
    arm: str
    stage: int
    target: str
    experiment: str = field(default="", compare=False)

    def encode(self) -> dict[str, Any]:
        """Return the JSON form that provenance has."""
        named = {"experiment": self.experiment} if self.experiment else {}
        return {"rollout": self.rollout, "arm": self.arm, "stage": self.stage, "target": self.target, **named}


def assign(record: RolloutRecord, key: str, now_s: float, target: str) -> ArmAssignment:
    """Return the arm of a request: the same one for the same key, until the candidate's share changes.

    Args:
        record: the rollout.
        key: the request's targeting key.
        now_s: the time by the store's clock, in Unix seconds.
        target: what the rollout stages.

    Raises:
        ValueError: the key is too long.
    """
    arm = CANDIDATE if is_candidate(record.id, key, record.share_at(now_s)) else BASELINE
    return ArmAssignment(record.id, arm, record.stage_at(now_s), target)
