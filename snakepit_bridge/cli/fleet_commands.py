"""The fleet's own commands. They live in a checkout or the image, beside this library, and join its command line there.

The library may not import what lies above it, and a wheel alone doesn't have it: so they are looked for at run time.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import NoReturn, Protocol, cast

import typer

from snakepit_bridge.cli.checks import Check
from snakepit_bridge.exceptions import ConfigurationError

# `workers` is a name that others use too; ours has these files and neighbours.
_FLEET_FILES = ("workers/commands.py", "workers/lifecycle.py", "tasks/predict.py", "config/settings.py")
_ANY_ARGUMENTS = {"allow_extra_args": True, "ignore_unknown_options": True}


class FleetCommands(Protocol):
    """What ``workers.commands`` offers."""

    def add_to(self, app: typer.Typer, *, panel: str) -> None:
        """Add the fleet's commands."""

    def check_language_models(self) -> Iterable[Check]:
        """Look at the LM profiles of this machine's settings."""
        ...


def load_fleet_commands() -> FleetCommands | None:
    """Return the fleet's commands, or None where the library is installed alone."""
    found = importlib.util.find_spec("workers")
    for folder in (found.submodule_search_locations or ()) if found else ():
        root = Path(folder).parent
        if all((root / part).is_file() for part in _FLEET_FILES):
            return cast(FleetCommands, importlib.import_module("workers.commands"))
    return None


def add_fleet_commands(app: typer.Typer, *, panel: str) -> None:
    """Add the fleet's commands, or ones of their names that say where they run."""
    found = load_fleet_commands()
    if found is not None:
        found.add_to(app, panel=panel)
        return
    for name in ("worker", "refresher", "gateway", "gateway-token", "demo"):
        text = f"The fleet's {name}; runs from a checkout or the image."
        app.command(name, help=text, rich_help_panel=panel, context_settings=_ANY_ARGUMENTS)(_explain_absence)


def _explain_absence() -> NoReturn:
    raise ConfigurationError(
        "The fleet's commands (worker, refresher, gateway, demo) run from a checkout or the image; "
        "only the library is installed here. "
        "In a clone of the project run 'make demo' or, after it, '.venv/bin/dspex-fleet worker'; "
        "with Docker, 'docker compose up worker'."
    )
