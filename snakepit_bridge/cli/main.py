"""The command line itself: its commands, the options that they share, and how an error looks.

What ``--help`` doesn't need is imported where it is used; ``tests/unit/cli/test_main.py`` lists what may be loaded.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from typing import Annotated, cast

import typer
from typer.core import TyperGroup

from snakepit_bridge.cli.connection_options import BrokerUrl, Durability, FleetAddress, is_on_command_line
from snakepit_bridge.cli.fleet_commands import fleet_commands
from snakepit_bridge.cli.lazy_command import LazyCommand
from snakepit_bridge.cli.usage_errors import CommandLine
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE, check_namespace, default_queue

# The first line of each command's docstring, which isn't loaded for the help.
_LIBRARY_COMMANDS = {
    "Programs and predictions": {
        "predict:predict": "Make one prediction and print its outputs and provenance.",
        "batch:batch": "Make a prediction for each line of a file.",
        "replay:replay": (
            "Make a finished prediction again under its exact revision and program version, and show both."
        ),
        "captured_calls:lm_calls": (
            "Show the prompts and answers of a finished prediction's LM calls, where workers capture them."
        ),
        "evaluate:evaluate": "Evaluate a program on a dataset by a metric that runs on the workers.",
        "evaluations:evaluations": "List, show or compare the records of evaluations.",
        "score:score": "Score a finished prediction, or show its scores.",
        "judge:judge": "Have programs score a sampled share of other programs' predictions.",
        "programs:register": "Register a program as its newest version.",
        "programs:programs": "List the registered programs with their newest versions and labels.",
        "programs:label": "Point a label such as prod at a version of a program; its rollout ends by it.",
    },
    "Sessions": {
        "sessions:publish": "Publish variables as one revision and print its token.",
        "sessions:variables": (
            "List a session's variables and its current token; of a staged one the candidate's and what differs."
        ),
        "revisions:history": "List a session's newest revisions: time, author, reason, and changes.",
        "revisions:diff": "Show the variables that differ between two revisions of a session.",
        "revisions:rollback": "Publish an earlier revision's variables once more, and print the new token.",
        "revisions:watch": (
            "Print the session's newest token and then each change, one line of JSON each, until Ctrl-C."
        ),
        "revisions:mark": "Point a label at a revision of a session.",
        "revisions:promote": (
            "Point a label at a revision once every worker process that holds the session applies it."
        ),
    },
    "Rollouts": {
        "rollouts:rollout": "Start, show, watch or steer rollouts of a session's revisions or a program's versions.",
        "experiments:experiment": "Start, show or end experiments of revisions of a session or versions of a program.",
    },
    "Datasets": {
        "datasets:dataset": "Add, list, show, compare, export or remove datasets.",
        "optimize:optimize": (
            "Run an optimizer here, whose predictions run on the fleet, and register the best program as a new version."
        ),
        "jobs:jobs": "List, show, watch or cancel evaluations and optimizations that run on workers.",
        "recorders:record": "Record a share of a program's finished predictions, for datasets.",
    },
    "The fleet": {
        "status:status": "Show which workers answer, how deep the queue is, and where each session stands.",
        "doctor:doctor": "Check Redis, the workers, their LM profiles, packages and versions, and suggest fixes.",
        "encryption:new_key": "Make a key and print it as DSPEX_ENCRYPTION_KEYS and its file have it.",
        "encryption:reencrypt": (
            "Encrypt sessions' variables, kept states and histories by the newest key, in place: no revision is made."
        ),
        "acl:acl": "Print the ACL rule that grants a role its minimal permissions: commands, keys and channels.",
        "audit:audit": "Show who changed what, from where and why, the newest first.",
        "protect:protect": "Have changes of sessions and labels wait for somebody else's approval.",
        "approvals:approvals": "List, show, approve or reject the changes that wait for approval.",
        "cost:cost": "Show what predictions cost, by program, session, revision or LM profile.",
        "lm_batches:lm_batches": "List, show or cancel the batches of LM calls that predictions wait for.",
        "dead:dead": "List, show, retry or drop the messages in the dead-letter list.",
    },
}


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line: the process's own arguments, or these.

    Raises:
        SystemExit: always; 1 after a ``BridgeError``, printed as one line on stderr, and 2 for invalid arguments.
    """
    try:
        command_line()(arguments)
    except Exception as exc:
        from snakepit_bridge.cli.output import to_one_line
        from snakepit_bridge.exceptions import BridgeError

        if not isinstance(exc, BridgeError):
            raise
        sys.stderr.write(f"dspex-fleet: {to_one_line(str(exc))}\n")
        raise SystemExit(1) from None


@cache
def command_line() -> TyperGroup:
    """Return the command line. Each command is imported once it is called."""
    app = typer.Typer(name="dspex-fleet", no_args_is_help=True, pretty_exceptions_enable=False, add_completion=False)
    app.callback(cls=CommandLine)(_root)
    group = cast(TyperGroup, typer.main.get_command(app))
    for panel, summaries in _LIBRARY_COMMANDS.items():
        for target, summary in summaries.items():
            name = target.partition(":")[2].replace("_", "-")
            group.add_command(LazyCommand(name, f"snakepit_bridge.cli.{target}", summary, panel))
    for command in fleet_commands("The fleet"):
        group.add_command(command)
    return group


def _print_version(requested: bool) -> None:
    if requested:
        from importlib.metadata import version

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
    durability: Durability = "primary",
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Run DSPy programs on a Celery fleet, configured by session variables."""
    from snakepit_bridge.redaction import redact_logs

    redact_logs()
    try:
        ctx.obj = FleetAddress(
            redis_url,
            check_namespace(namespace),
            queue or default_queue(namespace),
            is_explicit=is_on_command_line(ctx, "redis_url"),
            broker_url=broker_url or None,
            durability=durability or "primary",
        )
    except ValueError as exc:
        raise typer.BadParameter(str(exc), param_hint="--namespace") from None
