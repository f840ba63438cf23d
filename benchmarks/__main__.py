"""Runs benchmarks by name: ``python -m benchmarks overhead --json``, or ``all``.

``--quick`` asks for a short form, where a benchmark has one. Progress goes to stderr. The result is one line of JSON,
the last on stdout.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import pkgutil
import sys
from typing import Any

import benchmarks

# What is measured must be the program, not a look at the network or an answer from a cache.
os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")


def names() -> list[str]:
    """Return the benchmarks that there are."""
    modules = (module.name for module in pkgutil.iter_modules(benchmarks.__path__) if not module.ispkg)
    return sorted(name for name in modules if not name.startswith("_"))


def run(name: str, *, quick: bool = False, lines: int | None = None) -> dict[str, Any]:
    """Run one benchmark, in its short form if it has one and that is asked for, and return its figures."""
    module = importlib.import_module(f"benchmarks.{name}")
    question, _, _ = (module.__doc__ or "").partition("\n")
    sys.stderr.write(f"{name}: {question}\n")
    if lines is not None:
        return module.run(lines=lines)
    short = quick and "quick" in inspect.signature(module.run).parameters
    return module.run(quick=True) if short else module.run()


def main() -> int:
    """Run what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=benchmarks.__doc__)
    parser.add_argument("name", choices=[*names(), "all"])
    parser.add_argument("--json", action="store_true", help="one line of JSON instead of indented JSON")
    parser.add_argument("--quick", action="store_true", help="the short form, where there is one")
    parser.add_argument("--lines", type=int, metavar="N", help="how many lines `bulk` predicts")
    chosen = parser.parse_args()
    if chosen.lines is not None and chosen.name != "bulk":
        parser.error("--lines is for bulk")
    if chosen.name == "all":
        for name in names():
            sys.stdout.write(json.dumps({name: run(name, quick=chosen.quick)}) + "\n")
            sys.stdout.flush()
        return 0
    sys.stdout.write(
        json.dumps(run(chosen.name, quick=chosen.quick, lines=chosen.lines), indent=None if chosen.json else 2) + "\n"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
