"""What ``doctor`` reports of each thing that it looked at, and how it asks workers for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

REPORT = "fleet_report"
"""The remote control command by which a worker reports."""

PACKAGES = ("dspex-fleet", "dspy", "celery", "kombu", "redis")
"""The packages whose versions are compared."""

Level = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        what: its name.
        level: ``fail`` where the fleet can't work, ``warn`` where it can, at a price.
        found: how it is.
        fix: what to do about it, where there is something to do.
    """

    what: str
    level: Level
    found: str
    fix: str = ""
