"""The command line itself: its commands, the options that they share, and how an error looks."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from importlib.metadata import version
from typing import Annotated

import typer

from snakepit_bridge.cli import acl, batch, dead, doctor, predict, programs, replay, revisions, sessions, status
from snakepit_bridge.cli import fleet_commands as joined
from snakepit_bridge.cli.connection_options import BrokerUrl, FleetAddress, is_on_command_line
from snakepit_bridge.cli.output import to_one_line
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE, check_namespace, default_queue
from snakepit_bridge.redaction import redact_logs

_PROGRAMS = "Programs and predictions"
_SESSIONS = "Sessions"
_FLEET = "The fleet"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: the process's own arguments, or these.

    Raises:
        SystemExit: always; 1 after a ``BridgeError``, printed as one line on stderr, and 2 for invalid arguments.
    """
    redact_logs()
    try:
        _command_line()(arguments)
    except BridgeError as error:
        sys.stderr.write(f"dspex-fleet: {to_one_line(str(error))}\n")
        raise SystemExit(1) from None


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"dspex-fleet {version('dspex-fleet')}")
        raise typer.Exit


def _root(
    ctx: typer.Context,
    redis_url: Annotated[
        str | None,
        typer.Option("--redis-url", envvar="DSPEX_REDIS_URL", metavar="URL", help="Redis or Valkey of the fleet."),
    ] = None,
    namespace: Annotated[
        str, typer.Option(envvar="DSPEX_NAMESPACE", metavar="NAME", help="Namespace of the fleet's keys in Redis.")
    ] = DEFAULT_NAMESPACE,
    queue: Annotated[
        str | None,
        typer.Option(
            envvar="DSPEX_QUEUE",
            metavar="NAME",
            help="Queue of the predictions; the namespace's own if not given.",
            show_default=False,
        ),
    ] = None,
    broker_url: BrokerUrl = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Run DSPy programs on a Celery fleet, configured by session variables."""
    try:
        ctx.obj = FleetAddress(
            redis_url,
            check_namespace(namespace),
            queue or default_queue(namespace),
            said=is_on_command_line(ctx, "redis_url"),
            broker_url=broker_url or None,
        )
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--namespace") from None


@cache
def _command_line() -> typer.Typer:
    """Build the command line on first use: the fleet's own commands import this package themselves."""
    made = typer.Typer(name="dspex-fleet", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
    made.callback()(_root)
    for panel, commands in {
        _PROGRAMS: (predict.predict, batch.batch, replay.replay, programs.register, programs.programs, programs.label),
        _SESSIONS: (
            sessions.publish,
            sessions.variables,
            revisions.history,
            revisions.diff,
            revisions.rollback,
            revisions.watch,
            revisions.mark,
            revisions.promote,
        ),
        _FLEET: (status.status, doctor.doctor, acl.acl),
    }.items():
        for command in commands:
            made.command(rich_help_panel=panel)(command)
    made.add_typer(dead.app, name="dead", rich_help_panel=_FLEET)
    joined.add_fleet_commands(made, panel=_FLEET)
    return made
