"""Health checks, and the JSON form in which an endpoint answers them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from snakepit_bridge.variables.codec import encode_json

Problems = Mapping[str, str]
"""The problem that each check has found, by the check's name; empty where it found none."""


class Probes(Protocol):
    """What a process knows of its own health. Its methods answer at once, from any thread."""

    def live(self) -> Problems:
        """Return the checks that only a restart mends."""
        ...

    def ready(self) -> Problems:
        """Return the checks without which the process does no work now."""
        ...

    def started(self) -> Problems:
        """Return the checks that hold once the process has started."""
        ...


def encode_answer(problems: Problems) -> tuple[int, bytes]:
    """Return the HTTP status and the JSON text of an endpoint's answer."""
    failing = any(problems.values())
    checks = {
        name: {"status": "failing", "problem": text} if text else {"status": "ok"} for name, text in problems.items()
    }
    return 503 if failing else 200, encode_json({"status": "failing" if failing else "ok", "checks": checks})
