"""``cost``: what predictions cost, from the hourly sums of the fleet."""

from __future__ import annotations

from typing import Annotated

import typer

from snakepit_bridge.cli.arguments import parse_duration_s
from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet, translate_value_errors
from snakepit_bridge.cli.output import dump_json, echo, print_table
from snakepit_bridge.costs.report import CostDimension, CostReport, CostRow
from snakepit_bridge.costs.usage import LMUsage, format_usd

_NUMBERS = ("predictions", "calls", "unpriced", "input", "cached", "output", "reasoning", "USD", "failed", "failed USD")


def cost(
    ctx: typer.Context,
    by: Annotated[CostDimension, typer.Option(help="What to sum by.")] = "program",
    since: Annotated[
        str, typer.Option(metavar="DURATION", help="How far back, such as 90m, 24h or 7d; at most 35d.")
    ] = "24h",
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Show what predictions cost, by program, session, revision or LM profile.

    The sums are by hour, and the first hour counts as a whole. A prediction counts once, when its result is stored.
    """
    since_s = parse_duration_s(since)
    with translate_value_errors():
        report = resolve_fleet(ctx, redis_url).fleet().cost(by, since_s)
    if json:
        echo(dump_json(report.encode()))
        return
    _show(report)


def _show(report: CostReport) -> None:
    groups = ("session", "token") if report.by == "revision" else (report.by,)
    rows = [(*(row.group().get(name, "") for name in groups), *_amounts(row)) for row in report.rows]
    if len(rows) != 1:
        rows.append(("total", *("" for _ in groups[1:]), *_amounts(report.total)))
    print_table((*groups, *_NUMBERS), rows, numbers=_NUMBERS)
    unpriced = report.total.usage.unpriced_calls + report.total.failed_usage.unpriced_calls
    if unpriced:
        echo(f"{unpriced} calls are unpriced: their LM profile has no price, or the provider reported no usage.")


def _amounts(row: CostRow) -> tuple[object, ...]:
    used = row.usage
    tokens = (used.input_tokens, used.cached_input_tokens, used.output_tokens, used.reasoning_tokens)
    return (row.predictions, used.calls, used.unpriced_calls, *tokens, _usd(used), row.failed, _usd(row.failed_usage))


def _usd(usage: LMUsage) -> str:
    return "-" if usage.cost_usd is None else format_usd(usage.cost_pico)
