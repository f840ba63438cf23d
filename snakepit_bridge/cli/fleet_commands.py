"""The commands that run the fleet. Their code is in a checkout or the image, beside this library.

The library may not import what lies above it, and a wheel alone doesn't have it: so it is looked for at run time.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, Protocol, cast

from snakepit_bridge.cli.lazy_command import ANY_ARGUMENTS, LazyCommand

if TYPE_CHECKING:
    from snakepit_bridge.cli.checks import Check

# `workers` is a name that others use too; ours has these files and neighbours.
_FLEET_FILES = ("workers/commands.py", "workers/lifecycle.py", "tasks/predict.py", "config/settings.py")
# The first line of each command's docstring, as in ``main``.
_SUMMARIES = {
    "worker": "Run a worker. Further options go to Celery's worker as they are.",
    "refresher": "Follow an Elixir server's sessions and publish what changes, until SIGTERM or Ctrl-C.",
    "gateway": "Serve variables, predictions and programs to applications by gRPC and HTTP, until SIGTERM or Ctrl-C.",
    "gateway-token": "Make a token: print it once on stderr, and its entry for the gateway's tokens file on stdout.",
    "demo": "Ask real questions while the variables change, and judge the answers by the LM's own log.",
}


class FleetCommands(Protocol):
    """What ``workers.commands`` offers."""

    def check_language_models(self) -> Iterable[Check]:
        """Look at the LM profiles of this machine's settings."""
        ...


def load_fleet_commands() -> FleetCommands | None:
    """Return the fleet's commands, or None where the library is installed alone."""
    return cast(FleetCommands, importlib.import_module("workers.commands")) if _is_fleet_installed() else None


def fleet_commands(panel: str) -> Iterable[LazyCommand]:
    """Return the commands that run the fleet; where the library is installed alone, they say where they run."""
    installed = _is_fleet_installed()
    for name, summary in _SUMMARIES.items():
        if installed:
            target, settings = f"workers.commands:{name.replace('-', '_')}", None
        else:
            target, settings = f"{__name__}:explain_absence", ANY_ARGUMENTS
            summary = f"The fleet's {name}; runs from a checkout or the image."
        settings = ANY_ARGUMENTS if name == "worker" else settings
        yield LazyCommand(name, target, summary, panel, settings, help_text=None if installed else summary)


def _is_fleet_installed() -> bool:
    found = importlib.util.find_spec("workers")
    roots = [Path(folder).parent for folder in (found.submodule_search_locations or ())] if found else []
    return any(all((root / part).is_file() for part in _FLEET_FILES) for root in roots)


def explain_absence() -> NoReturn:
    """Say where the fleet's commands run.

    Raises:
        ConfigurationError: always.
    """
    from snakepit_bridge.exceptions import ConfigurationError

    raise ConfigurationError(
        "The fleet's commands (worker, refresher, gateway, demo) run from a checkout or the image; "
        "only the library is installed here. "
        "In a clone of the project run 'make demo' or, after it, '.venv/bin/dspex-fleet worker'; "
        "with Docker, 'docker compose up worker'."
    )
