"""``predict``: one prediction from a shell, with what produced it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snakepit_bridge.cli.arguments import json_or_text, pairs
from snakepit_bridge.cli.connection_options import (
    AsJson,
    AtLeast,
    Exactly,
    FleetAddress,
    MaxStaleness,
    OnOutage,
    RedisUrl,
    Session,
    demands,
    target,
)
from snakepit_bridge.cli.output import as_json, as_text, say, table
from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import DEFAULT_SESSION

if TYPE_CHECKING:
    from snakepit_bridge.client import Handle
    from snakepit_bridge.client.fleet_prediction import FleetPrediction
    from snakepit_bridge.protocol.provenance import Provenance

Program = Annotated[str, typer.Argument(metavar="PROGRAM", help="qa, qa:3 or qa@prod.", show_default=False)]


def predict(
    ctx: typer.Context,
    program: Program,
    fields: Annotated[list[str] | None, typer.Argument(metavar="FIELD=VALUE...", show_default=False)] = None,
    session: Session = DEFAULT_SESSION,
    at_least: AtLeast = None,
    exactly: Exactly = None,
    max_staleness: MaxStaleness = None,
    outage: OnOutage = None,
    timeout: Annotated[float, typer.Option(min=0.0, metavar="SECONDS", help="How long to wait.")] = 120.0,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Make one prediction and print its outputs and what produced them.

    A value for a text field is taken as it is, one for any other field is read as JSON where it is JSON.
    """
    said = pairs(fields or (), "field=value")
    demanded = demands(at_least, exactly, max_staleness, outage)
    chosen = target(ctx, redis_url)
    inputs = _typed(chosen, program, said)
    handle = chosen.fleet().submit(program, inputs, session=session, **demanded)
    with cancelled_if_left([handle]):
        prediction = handle.get(timeout)
    if json:
        say(as_json({"outputs": outputs(prediction), "provenance": prediction.provenance.encode()}))
        return
    for name, value in outputs(prediction).items():
        say(f"{name}: {as_text(value)}")
    table(("provenance", ""), _provenance(prediction.provenance))


def outputs(prediction: FleetPrediction) -> dict[str, Any]:
    """Returns a prediction's outputs."""
    return dict(prediction.items())


@contextmanager
def cancelled_if_left(handles: Iterable[Handle]) -> Generator[None]:
    """Cancels the predictions if the block is left by Ctrl-C: nobody is there to take their answers."""
    try:
        yield
    except KeyboardInterrupt:
        cancel(handles)
        raise


def cancel(handles: Iterable[Handle]) -> None:
    """Cancels predictions, as far as Redis is there to do so."""
    # Whoever cancels is on the way out already, for a reason that would be hidden by this one.
    with suppress(StoreUnavailableError):
        for handle in handles:
            handle.cancel()


def _typed(chosen: FleetAddress, program: str, said: Mapping[str, str]) -> dict[str, Any]:
    """Returns the inputs; ``42`` is text for a text field and a number for others."""
    signature = run_blocking(chosen.registry().get(program)).spec.signature
    texts = {field.name for field in signature.fields if field.type == "str"} if signature else set[str]()
    return {name: text if name in texts else json_or_text(text) for name, text in said.items()}


def _provenance(told: Provenance) -> list[tuple[str, Any]]:
    times = told.timings
    return [
        ("session", f"{told.session} at {told.token} ({told.requirement.partition('=')[0]}), {_age(told)}"),
        ("variables", as_json(told.variables)),
        ("program", f"{told.program}:{told.version} ({told.digest[:12]})"),
        ("module", told.module),
        ("model", f"{told.model} (profile {told.profile})"),
        ("usage", as_json(told.usage)),
        ("worker", f"{told.worker}, process {told.pid}, attempt {told.attempt}"),
        ("task", told.task_id),
        (
            "ms",
            f"{times.queued_ms:.0f} queued, {times.snapshot_ms:.1f} snapshot, {times.bind_ms:.1f} bind, "
            f"{times.run_ms:.0f} run",
        ),
    ]


def _age(told: Provenance) -> str:
    return f"confirmed {told.staleness_s:.1f} s before{', during an outage' if told.outage else ''}"
