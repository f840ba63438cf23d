"""``predict``: one prediction from a shell, with what produced it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snakepit_bridge.cli.arguments import parse_json_or_text, parse_pairs
from snakepit_bridge.cli.connection_options import (
    AsJson,
    AtLeast,
    Exactly,
    FleetAddress,
    MaxStaleness,
    OnOutage,
    RedisUrl,
    RequestAttributes,
    Session,
    TargetingKey,
    build_options,
    build_targeting,
    resolve_fleet,
)
from snakepit_bridge.cli.output import dump_json, echo, print_table, to_text
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
    fields: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="FIELD=VALUE...", help="The program's inputs, as in question='Why?'.", show_default=False
        ),
    ] = None,
    session: Session = DEFAULT_SESSION,
    at_least: AtLeast = None,
    exactly: Exactly = None,
    max_staleness: MaxStaleness = None,
    outage: OnOutage = None,
    key: TargetingKey = None,
    attributes: RequestAttributes = None,
    timeout: Annotated[float, typer.Option(min=0.0, metavar="SECONDS", help="How long to wait.")] = 120.0,
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Make one prediction and print its outputs and provenance.

    Values of text fields are used verbatim; other values are parsed as JSON where possible.
    """
    texts_by_field = parse_pairs(fields or (), "field=value")
    demanded = build_options(at_least, exactly, max_staleness, outage) | build_targeting(key, attributes)
    chosen = resolve_fleet(ctx, redis_url)
    inputs = _parse_inputs(chosen, program, texts_by_field)
    handle = chosen.fleet().submit(program, inputs, session=session, **demanded)
    with cancel_on_interrupt([handle]):
        prediction = handle.get(timeout)
    if json:
        echo(dump_json({"outputs": outputs(prediction), "provenance": prediction.provenance.encode()}))
        return
    for name, value in outputs(prediction).items():
        echo(f"{name}: {to_text(value)}")
    print_table(("provenance", ""), _provenance_rows(prediction.provenance))


def outputs(prediction: FleetPrediction) -> dict[str, Any]:
    """Return a prediction's outputs."""
    return dict(prediction.items())


@contextmanager
def cancel_on_interrupt(handles: Iterable[Handle]) -> Generator[None]:
    """Cancel the predictions if the block is left by Ctrl-C: nobody is there to take their answers."""
    try:
        yield
    except KeyboardInterrupt:
        cancel(handles)
        raise


def cancel(handles: Iterable[Handle]) -> None:
    """Cancel predictions, as far as Redis is there to do so."""
    # Whoever cancels is on the way out already, for a reason that would be hidden by this one.
    with suppress(StoreUnavailableError):
        for handle in handles:
            handle.cancel()


def _parse_inputs(chosen: FleetAddress, program: str, texts_by_field: Mapping[str, str]) -> dict[str, Any]:
    """Return the inputs; ``42`` is text for a text field and a number for others."""
    signature = run_blocking(chosen.registry().get(program)).spec.signature
    texts = {field.name for field in signature.fields if field.type == "str"} if signature else set[str]()
    return {name: text if name in texts else parse_json_or_text(text) for name, text in texts_by_field.items()}


def _provenance_rows(origin: Provenance) -> list[tuple[str, Any]]:
    times = origin.timings
    return [
        (
            "session",
            f"{origin.session} at {origin.token} ({origin.requirement.partition('=')[0]}), {_describe_age(origin)}",
        ),
        *(("arm", describe_arm(arm)) for arm in origin.arms),
        ("variables", dump_json(origin.variables)),
        ("program", f"{origin.program}:{origin.version} ({origin.digest[:12]})"),
        ("module", origin.module),
        ("model", f"{origin.model} (profile {origin.profile})"),
        ("usage", dump_json(origin.usage)),
        *([] if origin.cost_usd is None else [("cost", f"{origin.cost_usd} USD")]),
        ("worker", f"{origin.worker}, process {origin.pid}, attempt {origin.attempt}"),
        ("task", origin.task_id),
        (
            "ms",
            f"{times.queued_ms:.0f} queued, {times.snapshot_ms:.1f} snapshot, {times.bind_ms:.1f} bind, "
            f"{times.run_ms:.0f} run",
        ),
    ]


def describe_arm(arm: Mapping[str, Any]) -> str:
    """Return the arm of a rollout or an experiment in one line."""
    if name := arm.get("experiment"):
        return f"{arm['arm']} of experiment {name} on {arm['target']}"
    return f"{arm['arm']} of the rollout of {arm['target']}, stage {arm['stage']}"


def _describe_age(origin: Provenance) -> str:
    return f"confirmed {origin.staleness_s:.1f} s before{', during an outage' if origin.outage else ''}"
