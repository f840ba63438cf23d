"""DSPy's interpreter with limits of time and memory, and an environment without secrets."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dspy

from snakepit_bridge.dspy_integration.compat import find_deno, find_deno_cache, find_sandbox_runner

_FOLDER = Path(__file__).parent
_LAUNCHER = _FOLDER / "launcher.py"
_PAGES_PER_MB = 16

DENO_OPTIONS = (
    "--no-config", "--no-lock", "--node-modules-dir=false", f"--import-map={_FOLDER / 'import_map.json'}",
)  # fmt: skip
"""What Deno is given to load the runner, be it to run it or to fill the cache."""


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What the code of one interpreter may use, from its start to its end.

    Attributes:
        cpu_s: seconds of computing; some of them go into starting Pyodide.
        wall_s: seconds by the clock, LM calls that the code waits for included.
        memory_mb: megabytes of Python's memory in the sandbox, of which Pyodide itself takes about 30.
    """

    cpu_s: int = 60
    wall_s: int = 600
    memory_mb: int = 512


class Sandbox:
    """Creates DSPy's sandboxed interpreter, also where ``dspy.configure`` names another default.

    Attributes:
        limits: what each of its interpreters may use; a worker sets them from its settings.
    """

    # RLM puts these instructions of its interpreter's factory into the prompt.
    execution_instructions: str = getattr(dspy.PythonInterpreter, "execution_instructions", "")

    def __init__(self, limits: SandboxLimits | None = None) -> None:
        self.limits = limits or SandboxLimits()

    def __call__(self) -> Any:
        """Return an interpreter whose process hasn't started yet."""
        return dspy.PythonInterpreter(deno_command=self.command())

    def command(self) -> list[str]:
        """Return the command line that runs DSPy's runner under the limits."""
        deno, limits = find_deno(), self.limits
        runner, cache = find_sandbox_runner(), find_deno_cache(deno)
        readable = ",".join(filter(None, (runner, cache)))
        pages = f"--v8-flags=--wasm-max-mem-pages={limits.memory_mb * _PAGES_PER_MB}"
        return [
            *(sys.executable, "-I", "-S", str(_LAUNCHER), str(limits.cpu_s), str(limits.wall_s)),
            *(deno, "run", *DENO_OPTIONS, pages, f"--allow-read={readable}", runner, ""),
            *([f"--dspy-deno-dir={cache}"] if cache else []),
        ]


SANDBOX = Sandbox()
"""The sandbox of this process."""
