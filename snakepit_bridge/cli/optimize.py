"""``optimize``: run an optimizer of DSPy whose predictions run on the fleet, and register what it finds."""

from __future__ import annotations

import json as json_module
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any

import typer

from snakepit_bridge.cli.arguments import parse_pairs
from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet, translate_value_errors
from snakepit_bridge.cli.evaluate import refuse_report, show_started, write_text
from snakepit_bridge.cli.optimization_view import show_optimization, show_progress
from snakepit_bridge.cli.output import dump_json, echo, echo_aside
from snakepit_bridge.cli.programs import import_object
from snakepit_bridge.cli.sessions import author
from snakepit_bridge.exceptions import BridgeError


def optimize(
    ctx: typer.Context,
    program: Annotated[
        str, typer.Argument(metavar="PROGRAM", help="The registered program: qa, qa:3 or qa@prod.", show_default=False)
    ],
    dataset: Annotated[
        str, typer.Option(metavar="DATASET", help="The examples to learn from: train or train:2.", show_default=False)
    ],
    metric: Annotated[
        str,
        typer.Option(
            metavar="METRIC",
            help="package.module:function to import, or the name of one of DSPy's own.",
            show_default=False,
        ),
    ],
    optimizer: Annotated[
        str, typer.Option(metavar="CLASS", help="One of DSPy's optimizers.")
    ] = "BootstrapFewShotWithRandomSearch",
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=JSON", help="What its constructor takes; repeatable.", show_default=False),
    ] = None,
    valset: Annotated[
        str | None, typer.Option(metavar="DATASET", help="The examples to validate on.", show_default=False)
    ] = None,
    lm: Annotated[
        str | None,
        typer.Option(
            metavar="MODEL",
            help="The LM that the optimizer itself asks, if it does: as of dspy.LM, or an LM profile with --detach.",
            show_default=False,
        ),
    ] = None,
    session: Annotated[str, typer.Option("--session", "-s", help="Whose variables apply.")] = "default",
    max_predictions: Annotated[
        int | None, typer.Option(help="End with the best program after so many predictions.", show_default=False)
    ] = None,
    max_usd: Annotated[
        float | None, typer.Option(help="End with the best program once so much was spent.", show_default=False)
    ] = None,
    max_s: Annotated[
        float | None, typer.Option(help="End with the best program after so many seconds.", show_default=False)
    ] = None,
    in_flight: Annotated[int, typer.Option(help="Predictions at a time.")] = 100,
    run_id: Annotated[
        str | None,
        typer.Option(help="Name of the run, under which it goes on after a crash.", show_default=False),
    ] = None,
    label: Annotated[str, typer.Option(help="What points at the new version.")] = "candidate",
    publish: Annotated[
        bool,
        typer.Option(
            "--publish",
            help="Publish what it found to the session, as values of the variables that instructions and demos are "
            "bound to.",
        ),
    ] = False,
    detach: Annotated[
        bool, typer.Option("--detach", help="Run it on a worker, print the job's id, and end at once.")
    ] = False,
    html: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Write a report with plots.", show_default=False)
    ] = None,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Run an optimizer here, whose predictions run on the fleet, and register the best program as a new version."""
    from snakepit_bridge.client.optimization.budget import Budget

    fleet = resolve_fleet(ctx, redis_url).fleet()
    with translate_value_errors():
        given: dict[str, Any] = {
            "optimizer": optimizer,
            "options": {name: _parse_option(text) for name, text in parse_pairs(option or [], "NAME=JSON").items()},
            "valset": valset,
            "session": session,
            "budget": Budget(max_predictions, max_usd, max_s),
            "in_flight": in_flight,
            "label": label,
            "author": author(),
        }
        if detach:
            refuse_report(html)
            _refuse_publish(publish)
            show_started(fleet.jobs.optimize(program, dataset, metric, lm=lm or "", job_id=run_id, **given), json=json)
            return
        scores = import_object(metric, program) if ":" in metric else metric
        given["options"] = _import_vectorizer(given["options"], program)
        # DSPy's optimizers print what they do; the standard output is for what is found.
        with _client_lm(lm), show_progress(program) as on_progress, redirect_stdout(sys.stderr):
            found = fleet.optimize(program, dataset, scores, run_id=run_id, on_progress=on_progress, **given)
    if html is not None:
        from snakepit_bridge.evaluations.optimization_report import render_optimization

        write_text(html, render_optimization(found.record))
    if json:
        echo(dump_json(found.record.as_dict()))
    else:
        show_optimization(found.record)
    if publish:
        show = echo_aside if json else echo
        show(f"published to {session}: {found.publish(fleet.session(session))}")


def _refuse_publish(publish: bool) -> None:
    """Refuse to publish what a command that ends at once hasn't found yet.

    Raises:
        BridgeError: it is to be published.
    """
    if publish:
        raise BridgeError("With --detach there is nothing to publish yet. Leave out one of --detach and --publish.")


def _parse_option(text: str) -> Any:
    """Return an option's value: JSON, or the text itself."""
    try:
        return json_module.loads(text)
    except ValueError:
        return text


def _import_vectorizer(options: dict[str, Any], program: str) -> dict[str, Any]:
    """Return an optimizer's options with the vectorizer in place of its import path, as the metric is imported."""
    path = options.get("vectorizer")
    if not isinstance(path, str) or ":" not in path:
        return options
    return {**options, "vectorizer": import_object(path, program)}


def _client_lm(model: str | None) -> Any:
    from contextlib import nullcontext

    import dspy

    return nullcontext() if model is None else dspy.context(lm=dspy.LM(model))
