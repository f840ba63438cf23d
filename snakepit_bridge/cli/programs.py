"""``register``, ``programs`` and ``label``: the program registry from a shell."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from snakepit_bridge.cli.arguments import parse_pairs
from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.gates import GateMetrics, GateSession, Require, check_gates, name_metrics, require_gates
from snakepit_bridge.cli.output import dump_json, echo, print_table
from snakepit_bridge.cli.sessions import author
from snakepit_bridge.cli.staged import name_arm
from snakepit_bridge.exceptions import BridgeError, ProgramSpecError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import DEFAULT_SESSION
from snakepit_bridge.rollouts.records import RolloutRecord


def register(
    ctx: typer.Context,
    source: Annotated[
        str,
        typer.Argument(
            metavar="FILE|package.module:object",
            help="A JSON spec, or a DSPy module (or a class or function that makes one) to import.",
            show_default=False,
        ),
    ],
    name: Annotated[
        str | None, typer.Option(help="Name of the program; that of the file or object if not given.")
    ] = None,
    bind: Annotated[
        list[str] | None, typer.Option(metavar="ATTRIBUTE=VARIABLE", help="Bind an attribute to a session variable.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Point this label, such as prod, at the version.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="PACKAGE", help="Package whose code a spec may name.")
    ] = None,
    imports: Annotated[
        list[str] | None,
        typer.Option("--import", metavar="MODULE", help="Import this module first, which registers targets or tools."),
    ] = None,
    redis_url: RedisUrl = None,
) -> None:
    """Register a program as its newest version.

    Every module that it may run as is built first; a spec that can't run is rejected and nothing is stored.
    """
    bindings = parse_pairs(bind or (), "--bind attribute=variable")
    called = name or _default_name(source)
    for module_name in imports or ():
        _import_module(module_name, module_name, called)
    fleet = resolve_fleet(ctx, redis_url).fleet(allowed_packages=allow or ())
    program = fleet.register(called, _load_program(source, called), bindings=bindings or None, author=author())
    ended = None
    if label is not None:
        ended = fleet.label(program.name, label, program.version, author=author())
    echo(f"registered {program.name}:{program.version}{f' as {program.name}@{label}' if label else ''}")
    _tell_end(ended)


def programs(ctx: typer.Context, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """List the registered programs with their newest versions and labels."""
    found = run_blocking(resolve_fleet(ctx, redis_url).registry().list())
    if json:
        echo(dump_json([{"name": each.name, "latest": each.latest, "labels": each.labels} for each in found]))
        return
    labels = [", ".join(f"{label}={version}" for label, version in each.labels.items()) for each in found]
    rows = [(each.name, each.latest, labelled) for each, labelled in zip(found, labels, strict=True)]
    print_table(("program", "latest", "labels"), rows, numbers=("latest",))


def label(
    ctx: typer.Context,
    program: Annotated[str, typer.Argument(metavar="PROGRAM", help="Name of the program.", show_default=False)],
    label: Annotated[str, typer.Argument(metavar="LABEL", help="Such as prod.", show_default=False)],
    version: Annotated[int, typer.Argument(metavar="VERSION", help="Number of a version.", show_default=False)],
    require: Require = None,
    metric: GateMetrics = None,
    session: GateSession = DEFAULT_SESSION,
    reason: Annotated[str, typer.Option(help="Reason, for the history of a rollout that ends by it.")] = "",
    redis_url: RedisUrl = None,
) -> None:
    """Point a label such as prod at a version of a program; its rollout ends by it.

    With --require the version is evaluated first, against the one that the label points at; if a requirement isn't met,
    the label stays, and the exit code is 1.
    """
    address = resolve_fleet(ctx, redis_url)
    if require:
        fleet, metrics = address.fleet(), name_metrics(metric or [])
        known = next((each.labels for each in fleet.programs() if each.name == program), {})
        baseline = f"{program}@{label}" if label in known else None
        outcomes = check_gates(
            fleet, require, program, metrics, session=session, candidate=f"{program}:{version}", baseline=baseline
        )
        require_gates(outcomes, f"{program}@{label} stays")
    ended = run_blocking(address.registry().label(program, label, version, author=author(), reason=reason))
    echo(f"{program}@{label} is {program}:{version}")
    _tell_end(ended)


def _tell_end(ended: RolloutRecord | None) -> None:
    if ended is not None:
        echo(f"the rollout of {name_arm(ended.candidate)} was ended (superseded): everybody gets the version above")


def _default_name(source: str) -> str:
    return Path(source).stem if _is_file(source) else source.replace(":", ".").rpartition(".")[2]


def _is_file(source: str) -> bool:
    return ":" not in source and (Path(source).suffix in (".json", ".py") or "/" in source or Path(source).exists())


def _load_program(source: str, name: str) -> Any:
    """Return a file's text, for the spec to be read from it, or the module that an import path leads to."""
    if not _is_file(source):
        return _import_program(source, name)
    if source.endswith(".py"):
        raise ProgramSpecError(
            name, "the whole", f"{source} is Python code; name an object in it: {Path(source).stem}:object"
        )
    try:
        return Path(source).read_bytes().decode()
    except OSError as exc:
        raise BridgeError(f"The program's file {source} can't be read: {exc.strerror}. Check its path.") from None
    except UnicodeDecodeError as exc:
        raise ProgramSpecError(name, "the whole", f"{source} isn't text in UTF-8: {exc.reason}") from None


def _import_program(path: str, name: str) -> Any:
    import dspy

    found = import_object(path, name)
    if not isinstance(found, dspy.Module) and callable(found):
        try:
            found = found()
        except Exception as exc:
            raise ProgramSpecError(name, "module", f"calling {path} raised {_describe_error(exc)}") from exc
    if not isinstance(found, dspy.Module):
        raise ProgramSpecError(name, "module", f"{path} is a {type(found).__name__}, not a dspy.Module")
    return found


def import_object(path: str, name: str) -> Any:
    """Return what an import path, ``package.module:NAME``, leads to in this environment or the current directory.

    Raises:
        ProgramSpecError: it can't be imported; ``name`` is what it is for.
    """
    module_name, colon, attributes = path.partition(":")
    if not colon:
        module_name, _, attributes = path.rpartition(".")
    if not module_name or not attributes:
        raise ProgramSpecError(name, "module", f"'{path}' is neither a file nor package.module:object")
    found = _import_module(module_name, path, name)
    try:
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except Exception as exc:
        raise _import_error(path, name, exc) from exc
    return found


def _import_module(module_name: str, path: str, name: str) -> Any:
    # A program that is being written is seldom installed yet. What is installed goes before.
    if str(Path.cwd()) not in sys.path:
        sys.path.append(str(Path.cwd()))
    try:
        return importlib.import_module(module_name)
    except Exception as exc:
        raise _import_error(path, name, exc) from exc


def _import_error(path: str, name: str, exc: Exception) -> ProgramSpecError:
    return ProgramSpecError(name, "module", f"'{path}' can't be imported here: {_describe_error(exc)}")


def _describe_error(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
