"""The demo's fleet after the demo: it stays up, with the console on it, until Ctrl-C."""

from __future__ import annotations

import shlex
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

from workers.dev.demo.parts import PYTHON
from workers.dev.process import inherit_environment

SCENARIO = Path(__file__).parents[3] / "examples" / "fill_console.py"
"""The script that fills the console; an installed wheel has none."""


def serve_console(settings: Mapping[str, str], bridge: str | None = None, *, lm: str = "") -> None:
    """Serve the console on a fleet until Ctrl-C; the command prints its link.

    Args:
        settings: of the fleet.
        bridge: ``HOST:PORT`` of the Elixir server that owns its session; None if there is none.
        lm: its LM profile, for the command that fills the console; empty if it is filled.
    """
    lines = ["the fleet stays up until Ctrl-C"]
    if lm and SCENARIO.exists():
        url, namespace = settings["DSPEX_REDIS_URL"], settings["DSPEX_NAMESPACE"]
        arguments = ["--redis-url", url, "--namespace", namespace, "--lm", lm]
        lines.append(f"fill the console: {shlex.join([sys.executable, str(SCENARIO), *arguments])}")
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()
    command = [*PYTHON, "-m", "snakepit_bridge.cli", "console", "--http", "127.0.0.1:0"]
    command += ["--bridge", bridge] if bridge else []
    with subprocess.Popen(command, env=inherit_environment(settings)) as process:
        try:
            process.wait()
        except KeyboardInterrupt:
            process.terminate()
