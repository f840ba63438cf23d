"""The commands that run the fleet. Their code lies above this library, so it is imported by name, when it is called."""

from __future__ import annotations

import importlib
from collections.abc import Iterable
from typing import TYPE_CHECKING, Protocol, cast

from snakepit_bridge.cli.lazy_command import ANY_ARGUMENTS, LazyCommand

if TYPE_CHECKING:
    from snakepit_bridge.protocol.checks import Check

# The same module in a checkout and in the wheel.
_MODULE = "dspex_fleet.commands"
# The first line of each command's docstring, as in ``main``.
_SUMMARIES = {
    "worker": "Run a worker. Further options go to Celery's worker as they are.",
    "refresher": "Follow an Elixir server's sessions and publish what changes, until SIGTERM or Ctrl-C.",
    "gateway": "Serve variables, predictions and programs to applications by gRPC and HTTP, until SIGTERM or Ctrl-C.",
    "gateway-token": "Make a token: print it once on stderr, and its entry for the gateway's tokens file on stdout.",
    "console": "Serve the console alone until Ctrl-C, and print its link.",
    "demo": "Ask real questions while the variables change, and judge the answers by the LM's own log.",
}


class FleetCommands(Protocol):
    """What ``dspex_fleet.commands`` offers beside the commands."""

    def check_language_models(self) -> Iterable[Check]:
        """Look at the LM profiles of this machine's settings."""
        ...


def load_fleet_commands() -> FleetCommands:
    """Return the fleet's commands."""
    return cast(FleetCommands, importlib.import_module(_MODULE))


def fleet_commands(panel: str) -> Iterable[LazyCommand]:
    """Return the commands that run the fleet."""
    for name, summary in _SUMMARIES.items():
        settings = ANY_ARGUMENTS if name == "worker" else None
        yield LazyCommand(name, f"{_MODULE}:{name.replace('-', '_')}", summary, panel, settings)
