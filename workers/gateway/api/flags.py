"""Evaluate a session's variables as feature flags, under the same assignment as predictions.

The reasons and error codes are those of OpenFeature; ``workers.gateway.http.ofrep`` serves them by its protocol.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.demand import SessionDemand
from snakepit_bridge.exceptions import SessionNotFoundError
from snakepit_bridge.protocol.messages import PredictionRequest
from snakepit_bridge.protocol.targeting import Attributes, AttributeValue
from snakepit_bridge.rollouts.records import BASELINE, RESERVED_PREFIX, ArmAssignment
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable, VariableType
from snakepit_bridge.variables.types import Tensor, to_json
from tasks.preparation import assign_snapshot
from workers.gateway.call import ClientCall

UNSTAGED = "default"
"""The variant of a session without a rollout."""


@dataclass(frozen=True, slots=True)
class FlagContext:
    """Whom flags are evaluated for.

    Attributes:
        session: whose variables are the flags.
        key: the targeting key.
        attributes: what is known of the request's origin, for experiments on a segment.
    """

    session: str
    key: str
    attributes: Attributes = field(default_factory=dict[str, AttributeValue])


@dataclass(frozen=True, slots=True)
class Refusal:
    """A flag that can't be evaluated.

    Attributes:
        code: of OpenFeature.
        details: what is wrong, and what to do.
    """

    code: str
    details: str


@dataclass(frozen=True, slots=True)
class FlagEvaluation:
    """A flag's value, which is of JSON types."""

    value: Any


@dataclass(frozen=True, slots=True)
class AssignedFlags:
    """All flags for one context.

    Attributes:
        session: whose variables they are.
        snapshot: the session's snapshot for the context; None if it was never published.
        arm: the arm that the context is assigned to; None if no rollout or experiment is measured.
        is_staged: whether a rollout stages the session.
    """

    session: str
    snapshot: Snapshot | None
    arm: ArmAssignment | None
    is_staged: bool

    @property
    def reason(self) -> str:
        """OpenFeature's reason: ``SPLIT`` if the context was assigned to an arm, else ``STATIC``."""
        return "STATIC" if self.arm is None else "SPLIT"

    @property
    def variant(self) -> str:
        """The arm."""
        if self.arm is not None:
            return self.arm.arm
        return BASELINE if self.is_staged else UNSTAGED

    @property
    def metadata(self) -> dict[str, Any]:
        """The session, the token and, if it was assigned, the experiment, or the rollout and its stage."""
        assigned: dict[str, Any] = {}
        if self.arm is not None and self.arm.experiment:
            assigned = {"experiment": self.arm.experiment}
        elif self.arm is not None:
            assigned = {"rollout": self.arm.rollout, "stage": self.arm.stage}
        token = {} if self.snapshot is None else {"token": str(self.snapshot.token)}
        return {"session": self.session, **token, **assigned}

    @property
    def tag(self) -> str:
        """A digest that changes with any flag."""
        parts = [self.variant, self.reason, *map(str, self.metadata.values())]
        return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]

    @property
    def names(self) -> list[str]:
        """The names of the flags: of all variables but the fleet's own."""
        variables = {} if self.snapshot is None else self.snapshot.variables
        return sorted(name for name in variables if not name.startswith(RESERVED_PREFIX))

    def evaluate(self, name: str) -> FlagEvaluation | Refusal:
        """Return a flag's value."""
        variable = None if self.snapshot is None else self.snapshot.variables.get(name)
        if variable is None or name.startswith(RESERVED_PREFIX):
            lacks = "was never published" if self.snapshot is None else f"has no variable '{name}'"
            return Refusal("FLAG_NOT_FOUND", f"Session '{self.session}' {lacks}.")
        if not _is_finite(variable.value):
            return Refusal("GENERAL", f"The variable '{name}' isn't a finite number, which JSON can't hold.")
        return FlagEvaluation(_flag_value(variable))


class Flags:
    """Evaluates flags.

    Args:
        fleet: the fleet.
        replica: the gateway's snapshots.
    """

    def __init__(self, fleet: Fleet, replica: Replica) -> None:
        self._replica = replica
        self._demand = SessionDemand(fleet.connection, namespace=fleet.namespace) if fleet.elixir else None

    async def assign(self, context: FlagContext, call: ClientCall) -> AssignedFlags:
        """Return the flags for a context, in most cases without a round trip.

        Raises:
            StoreUnavailableError: the store is unreachable.
        """
        session = context.session
        if self._demand is not None:
            await self._demand.touch([session])
        try:
            newest = await self._replica.snapshot(session)
        except SessionNotFoundError:
            return AssignedFlags(session, None, None, is_staged=False)
        request = PredictionRequest("", {}, session, attributes=context.attributes)
        snapshot, arm = await assign_snapshot(self._replica, newest, request, context.key)
        return AssignedFlags(session, snapshot, arm, is_staged=newest.rollout is not None and newest.rollout.is_staged)


def _flag_value(variable: Variable) -> Any:
    """Return a variable's value as JSON; flags are scalars or objects, so that a list of numbers is an object too."""
    value = to_json(variable.type, variable.value)
    if variable.type is VariableType.EMBEDDING:
        return {"data": value, "shape": [len(value)]}
    return value


def _is_finite(value: Any) -> bool:
    if isinstance(value, Tensor):
        return _is_finite(value.data)
    if isinstance(value, list | tuple):
        return all(map(_is_finite, cast("Sequence[Any]", value)))
    return not isinstance(value, float) or math.isfinite(value)


def flag_fields(name: str, flags: AssignedFlags, outcome: FlagEvaluation | Refusal) -> Mapping[str, Any]:
    """Return a flag's outcome as JSON types, in OpenFeature's words."""
    if isinstance(outcome, Refusal):
        return {"key": name, "errorCode": outcome.code, "errorDetails": outcome.details}
    assigned = {"reason": flags.reason, "variant": flags.variant, "metadata": flags.metadata}
    return {"key": name, "value": outcome.value, **assigned}
