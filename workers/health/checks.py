"""Health checks, and the JSON form in which an endpoint answers them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Protocol

Problems = Mapping[str, str]
"""The problem that each check has found, by the check's name; empty where it found none."""


class ProbeSettings(Protocol):
    """What the checks of a worker read of its settings."""

    @property
    def redis(self) -> str: ...
    @property
    def broker(self) -> str: ...
    @property
    def namespace(self) -> str: ...
    @property
    def redis_timeout_s(self) -> float: ...
    @property
    def stall_limit_s(self) -> float: ...


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
    answer = {"status": "failing" if failing else "ok", "checks": checks}
    return 503 if failing else 200, json.dumps(answer, separators=(",", ":")).encode()
