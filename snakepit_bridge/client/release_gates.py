"""Gates in front of a release: conditions on evaluations that a label's move or a rollout's start has to meet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from snakepit_bridge.client.promotion import UNSET_LABEL
from snakepit_bridge.exceptions import GateError, GateFailedError
from snakepit_bridge.protocol.messages import DEFAULT_SESSION

if TYPE_CHECKING:
    from snakepit_bridge.client.evaluation_metrics import GivenMetric
    from snakepit_bridge.client.evaluation_options import EvaluationOptions
    from snakepit_bridge.client.prediction_client import PredictionClient
    from snakepit_bridge.client.promotion import LabelMove

_LATEST = "latest"


@dataclass(frozen=True, slots=True)
class ReleaseGates:
    """Conditions of a release. A list of conditions alone will do where the other attributes aren't needed.

    Attributes:
        conditions: such as ``exact(golden) >= 0.8`` or ``exact(golden) >= baseline - 0.02``.
        program: reference of the program that is evaluated, for a release of a session's revision or values.
        metrics: the metrics by their names in the conditions; others are DSPy's own.
        session: whose variables apply, for a release of a program's version.
        options: how evaluations are run.
    """

    conditions: Sequence[str]
    program: str = ""
    metrics: Mapping[str, GivenMetric] = field(default_factory=dict[str, Any])
    session: str = DEFAULT_SESSION
    options: EvaluationOptions | None = None


GivenGates = ReleaseGates | Sequence[str]
"""Gates, or their conditions alone."""


class ReleaseChecks:
    """Checks releases; each method raises ``GateFailedError`` for one that doesn't meet its gates.

    Args:
        client: by which programs are evaluated.
    """

    def __init__(self, client: PredictionClient) -> None:
        self._client = client

    async def check_version(self, name: str, label: str, version: int, given: GivenGates) -> None:
        """Check a version of a program against the one that a label points at.

        Raises:
            GateFailedError: a condition isn't met.
            BridgeError: what ``evaluations.check`` raises.
        """
        if not (gates := _of(given)).conditions:
            return
        listings = await self._client.registry.list()
        labels = next((each.labels for each in listings if each.name == name), {})
        baseline = f"{name}@{label}" if label in labels else None
        await self._check(
            gates, f"{name}@{label}", name, session=gates.session, candidate=f"{name}:{version}", baseline=baseline
        )

    async def check_move(self, move: LabelMove, given: GivenGates) -> None:
        """Check the revision that a session's label is to move to against the one that it points at.

        Raises:
            GateFailedError: a condition isn't met.
            LabelMovedError: the label was moved by somebody else since the move was planned.
            BridgeError: what ``evaluations.check`` raises.
        """
        if not (gates := _of(given)).conditions:
            return
        target, program = f"{move.label} of {move.session}", _require_program(gates)
        baseline = None if move.expected == UNSET_LABEL else str(move.expected)
        await self._check(gates, target, program, session=move.session, candidate=str(move.token), baseline=baseline)

    async def check_values(self, session: str, values: Mapping[str, Any], given: GivenGates) -> None:
        """Check values that a rollout would publish against the newest ones of its session.

        Raises:
            GateFailedError: a condition isn't met.
            BridgeError: what ``evaluations.check`` raises.
        """
        if not (gates := _of(given)).conditions:
            return
        program = _require_program(gates)
        await self._check(gates, session, program, session=session, values=values, baseline=_LATEST)

    async def _check(self, gates: ReleaseGates, target: str, program: str, **arms: Any) -> None:
        from snakepit_bridge.client.evaluations import AsyncEvaluations

        outcomes = await AsyncEvaluations(self._client).check(
            gates.conditions, program, metrics=gates.metrics, options=gates.options, **arms
        )
        failed = [
            f"{each.gate} (the score is {each.candidate:.4f}, the bound {each.bound:.4f})"
            for each in outcomes
            if not each.passed
        ]
        if failed:
            raise GateFailedError(target, failed)


def _of(given: GivenGates) -> ReleaseGates:
    return given if isinstance(given, ReleaseGates) else ReleaseGates(tuple(given))


def _require_program(gates: ReleaseGates) -> str:
    if not gates.program:
        raise GateError(gates.conditions[0], "it is evaluated with a program: give ReleaseGates(…, program='qa')")
    return gates.program
