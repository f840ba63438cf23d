"""Gates of a release from a shell: ``--require`` of evaluate, promote, label and rollout start."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snakepit_bridge.cli.output import echo, print_table
from snakepit_bridge.exceptions import BridgeError

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet
    from snakepit_bridge.evaluations.gates import GateOutcome
    from snakepit_bridge.evaluations.metric import MetricSpec

Require = Annotated[
    list[str] | None,
    typer.Option(
        metavar="GATE",
        help="A condition such as 'exact(golden) >= 0.8' or 'exact(golden) >= baseline - 0.02'; repeatable.",
        show_default=False,
    ),
]
GateMetrics = Annotated[
    list[str] | None,
    typer.Option(
        "--metric",
        metavar="METRIC",
        help="A metric that --require names, such as mypkg.metrics:exact; DSPy's own need none. Repeatable.",
        show_default=False,
    ),
]


GateSession = Annotated[str, typer.Option("--session", "-s", help="Session whose variables --require evaluates under.")]
GatedProgram = Annotated[
    str | None,
    typer.Option(
        "--program", metavar="PROGRAM", help="The program that --require evaluates: qa, qa:3 or qa@prod.",
        show_default=False,
    ),
]  # fmt: skip


def need_program(gates: Sequence[str] | None, program: str | None) -> str:
    """Return the program that gates evaluate; empty if there are no gates.

    Raises:
        BridgeError: there are gates, and no program.
    """
    if gates and program is None:
        raise BridgeError("--require evaluates a program under the session: name it with --program.")
    return program or ""


def name_metrics(metrics: Iterable[str | MetricSpec]) -> dict[str, MetricSpec]:
    """Return metrics by their names in gates.

    Raises:
        MetricError: one can't be a metric.
    """
    from snakepit_bridge.evaluations.metric import MetricSpec

    return {spec.name: spec for spec in map(MetricSpec.parse, metrics)}


def check_gates(
    fleet: Fleet,
    gates: Sequence[str] | None,
    program: str,
    metrics: Mapping[str, MetricSpec],
    *,
    session: str,
    candidate: str,
    baseline: str | None,
    values: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
) -> list[GateOutcome]:
    """Return how a candidate fares at gates; nothing is loaded if there are none.

    Args:
        fleet: where it is evaluated.
        gates: the conditions.
        program: reference of the program.
        metrics: by their names in the gates.
        session, candidate, values, baseline: as ``fleet.evaluations.check`` takes them.
        options: how evaluations are run.

    Raises:
        GateError: a gate can't be checked.
        BridgeError: an evaluation can't be run.
    """
    if not gates:
        return []
    from snakepit_bridge.client.evaluation_options import EvaluationOptions

    return fleet.evaluations.check(
        gates,
        program,
        metrics=metrics,
        session=session,
        candidate=candidate,
        values=values,
        baseline=baseline,
        options=EvaluationOptions(**(options or {})),
    )


def show_gates(outcomes: Sequence[GateOutcome]) -> None:
    """Print a table of gates; nothing if there are none."""
    if outcomes:
        rows = [
            (str(each.gate), _show(each.candidate), _show(each.baseline), "passed" if each.passed else "failed")
            for each in outcomes
        ]
        print_table(("requirement", "candidate", "baseline", ""), rows, numbers=("candidate", "baseline"))


def require_gates(outcomes: Sequence[GateOutcome], kept: str) -> None:
    """Print the gates, and end the command with exit code 1 if one isn't passed.

    Args:
        outcomes: of the gates.
        kept: what stays as it was, for the last line.

    Raises:
        typer.Exit: a gate isn't passed.
    """
    show_gates(outcomes)
    if failed := sum(not outcome.passed for outcome in outcomes):
        echo(f"{failed} of {len(outcomes)} requirements aren't met: {kept}")
        raise typer.Exit(1)


def _show(score: float | None) -> str:
    return "" if score is None else f"{score:.4f}"
