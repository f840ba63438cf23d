"""The demo's fleet after the demo: it stays up, with the console on it, until Ctrl-C."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping

from workers.dev.demo.parts import PYTHON
from workers.dev.process import inherit_environment


def serve_console(settings: Mapping[str, str], bridge: str) -> None:
    """Serve the console on a fleet until Ctrl-C; the command prints its link.

    Args:
        settings: of the fleet.
        bridge: ``HOST:PORT`` of the Elixir server that owns its session.
    """
    sys.stdout.write("the fleet stays up until Ctrl-C\n")
    sys.stdout.flush()
    command = [*PYTHON, "-m", "snakepit_bridge.cli", "console", "--http", "127.0.0.1:0", "--bridge", bridge]
    with subprocess.Popen(command, env=inherit_environment(settings)) as process:
        try:
            process.wait()
        except KeyboardInterrupt:
            process.terminate()
