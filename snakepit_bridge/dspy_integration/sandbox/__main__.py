"""Fill Deno's cache for the sandbox, then run a line of Python in it: ``python -m …dspy_integration.sandbox``."""

from __future__ import annotations

import subprocess
import sys

from snakepit_bridge.dspy_integration.compat import find_deno, find_deno_cache, find_sandbox_runner
from snakepit_bridge.dspy_integration.sandbox.interpreter import DENO_OPTIONS, SANDBOX


def main() -> None:
    """Fill the cache and check the sandbox; the exit code isn't 0 if it doesn't work."""
    deno = find_deno()
    subprocess.run([deno, "cache", *DENO_OPTIONS, find_sandbox_runner()], check=True)
    with SANDBOX() as interpreter:
        answer = str(interpreter("print(6 * 7)")).strip()
    if answer != "42":
        raise SystemExit(f"The sandbox answered {answer!r} where 42 was expected.")
    sys.stdout.write(f"The sandbox works; its files are in {find_deno_cache(deno)}.\n")


if __name__ == "__main__":
    main()
