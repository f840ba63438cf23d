"""``score``: say how good a finished prediction was, or show what has been said."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from snakepit_bridge.cli.arguments import parse_json_or_text
from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import dump_json, echo, print_table, to_text
from snakepit_bridge.releases.scores import DEFAULT_SCORER, Score


def score(
    ctx: typer.Context,
    task_id: Annotated[
        str, typer.Argument(metavar="TASK_ID", help="Id of the finished prediction.", show_default=False)
    ],
    name: Annotated[
        str | None,
        typer.Argument(metavar="[NAME]", help="What is scored; without it the scores are shown.", show_default=False),
    ] = None,
    value: Annotated[
        str | None,
        typer.Argument(metavar="[VALUE]", help="A number from 0 to 1, true, false, or a label.", show_default=False),
    ] = None,
    comment: Annotated[str, typer.Option(metavar="TEXT", help="Why.", show_default=False)] = "",
    scorer: Annotated[
        str, typer.Option(metavar="NAME", help="Who says so; a score of the same name and scorer is replaced.")
    ] = DEFAULT_SCORER,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Score a finished prediction, or show its scores.

    Scores are kept as long as the prediction's result, and count for the arms of rollouts that it ran under.
    """
    if name is not None and value is None:
        raise typer.BadParameter(f"give a value for '{name}'", param_hint="VALUE")
    fleet = resolve_fleet(ctx, redis_url).fleet()
    if name is not None and value is not None:
        fleet.score(task_id, name, parse_json_or_text(value), comment=comment, scorer=scorer)
    scores = fleet.scores(task_id)
    if json:
        echo(dump_json([given.encode() for given in scores]))
    elif scores:
        print_table(("name", "value", "scorer", "at", "comment"), map(_row, scores))
    else:
        echo(f"Prediction {task_id} has no scores.")


def _row(score: Score) -> tuple[str, ...]:
    at = datetime.fromtimestamp(score.at, UTC).isoformat(sep=" ", timespec="seconds")
    return (score.name, to_text(score.value), score.scorer, at, score.comment)
