"""``register``, ``programs`` and ``label``: the program registry from a shell."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from snakepit_bridge.cli.arguments import pairs
from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, target
from snakepit_bridge.cli.output import as_json, say, table
from snakepit_bridge.exceptions import BridgeError, ProgramSpecError
from snakepit_bridge.process.home_loop import run_blocking


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
    name: Annotated[str | None, typer.Option(help="Its name; the file's or the object's if not given.")] = None,
    bind: Annotated[
        list[str] | None, typer.Option(metavar="ATTRIBUTE=VARIABLE", help="Bind an attribute to a session variable.")
    ] = None,
    label: Annotated[str | None, typer.Option(help="Point this label, such as prod, at the version.")] = None,
    allow: Annotated[
        list[str] | None, typer.Option(metavar="PACKAGE", help="Package whose code a spec may name.")
    ] = None,
    redis_url: RedisUrl = None,
) -> None:
    """Register a program as its newest version.

    Every module that it may run as is built first; a spec that can't run is refused and nothing is stored.
    """
    bindings = pairs(bind or (), "--bind attribute=variable")
    called = name or _name_of(source)
    fleet = target(ctx, redis_url).fleet(allowed_packages=allow or ())
    program = fleet.register(called, _module_of(source, called), bindings=bindings or None)
    if label is not None:
        fleet.label(program.name, label, program.version)
    say(f"registered {program.name}:{program.version}{f' as {program.name}@{label}' if label else ''}")


def programs(ctx: typer.Context, json: AsJson = False, redis_url: RedisUrl = None) -> None:
    """List the registered programs with their newest versions and labels."""
    found = run_blocking(target(ctx, redis_url).registry().list())
    if json:
        say(as_json([{"name": each.name, "latest": each.latest, "labels": each.labels} for each in found]))
        return
    labels = [", ".join(f"{label}={version}" for label, version in each.labels.items()) for each in found]
    rows = [(each.name, each.latest, labelled) for each, labelled in zip(found, labels, strict=True)]
    table(("program", "latest", "labels"), rows, numbers=("latest",))


def label(
    ctx: typer.Context,
    program: Annotated[str, typer.Argument(metavar="PROGRAM", show_default=False)],
    label: Annotated[str, typer.Argument(metavar="LABEL", show_default=False)],
    version: Annotated[int, typer.Argument(metavar="VERSION", show_default=False)],
    redis_url: RedisUrl = None,
) -> None:
    """Point a label such as prod at a version of a program."""
    run_blocking(target(ctx, redis_url).registry().label(program, label, version))
    say(f"{program}@{label} is {program}:{version}")


def _name_of(source: str) -> str:
    return Path(source).stem if _is_file(source) else source.replace(":", ".").rpartition(".")[2]


def _is_file(source: str) -> bool:
    return ":" not in source and (Path(source).suffix in (".json", ".py") or "/" in source or Path(source).exists())


def _module_of(source: str, name: str) -> Any:
    """Returns a file's text, for the spec to be read from it, or the module that an import path leads to."""
    if not _is_file(source):
        return _imported(source, name)
    if source.endswith(".py"):
        raise ProgramSpecError(name, "the whole", f"{source} is code; name what is in it: {Path(source).stem}:object")
    try:
        return Path(source).read_bytes().decode()
    except OSError as missing:
        raise BridgeError(f"The program's file {source} can't be read: {missing.strerror}. Check its path.") from None
    except UnicodeDecodeError as binary:
        raise ProgramSpecError(name, "the whole", f"{source} isn't text in UTF-8: {binary.reason}") from None


def _imported(path: str, name: str) -> Any:
    import dspy

    found = _object_at(path, name)
    if not isinstance(found, dspy.Module) and callable(found):
        try:
            found = found()
        except Exception as broken:
            raise ProgramSpecError(name, "module", f"calling {path} raised {_said(broken)}") from broken
    if not isinstance(found, dspy.Module):
        raise ProgramSpecError(name, "module", f"{path} is a {type(found).__name__}, not a dspy.Module")
    return found


def _object_at(path: str, name: str) -> Any:
    module_name, colon, attributes = path.partition(":")
    if not colon:
        module_name, _, attributes = path.rpartition(".")
    if not module_name or not attributes:
        raise ProgramSpecError(name, "module", f"'{path}' is neither a file nor package.module:object")
    # A program that is being written is seldom installed yet. What is installed goes before.
    sys.path.append(str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module_name)
        for attribute in attributes.split("."):
            found = getattr(found, attribute)
    except Exception as broken:
        raise ProgramSpecError(name, "module", f"'{path}' can't be imported here: {_said(broken)}") from broken
    return found


def _said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
