"""``replay``: a finished prediction once more, under the revision and the program version that it had."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import dump_json, echo, print_table
from snakepit_bridge.cli.predict import outputs

if TYPE_CHECKING:
    from snakepit_bridge.client.fleet_prediction import FleetPrediction


def replay(
    ctx: typer.Context,
    task_id: Annotated[str, typer.Argument(metavar="TASK_ID", help="task_id of its provenance.", show_default=False)],
    timeout: Annotated[float, typer.Option(min=0.0, metavar="SECONDS", help="How long to wait.")] = 120.0,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Make a finished prediction again under its exact revision and program version, and show both."""
    found = resolve_fleet(ctx, redis_url).fleet().replay(task_id, timeout)
    if json:
        both = {"first": _to_dict(found.first), "again": _to_dict(found.again)}
        echo(dump_json({"inputs": dict(found.inputs), **both, "differences": sorted(found.differences)}))
        return
    print_table(
        ("", "first", "again"), [*_output_rows(found.first, found.again), *_provenance_rows(found.first, found.again)]
    )
    summary = (
        f"they differ in {', '.join(sorted(found.differences))}" if found.differences else "the answers are the same"
    )
    echo(f"replay: {summary}")


def _to_dict(prediction: FleetPrediction) -> dict[str, Any]:
    return {"outputs": outputs(prediction), "provenance": prediction.provenance.encode()}


def _output_rows(first: FleetPrediction, again: FleetPrediction) -> list[tuple[str, Any, Any]]:
    return [(name, first.get(name), again.get(name)) for name in dict.fromkeys([*first.keys(), *again.keys()])]


def _provenance_rows(first: FleetPrediction, again: FleetPrediction) -> list[tuple[str, Any, Any]]:
    old, new = first.provenance, again.provenance
    return [
        ("session", f"{old.session} at {old.token}", f"{new.session} at {new.token}"),
        ("program", f"{old.program}:{old.version}", f"{new.program}:{new.version}"),
        ("module", old.module, new.module),
        ("model", old.model, new.model),
        ("task", old.task_id, new.task_id),
    ]
