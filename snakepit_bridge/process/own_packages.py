"""The top-level packages of the fleet itself: its folders in a checkout, one package where the wheel is installed.

What tells the fleet's code from a user's by a module's name looks here, since a user may have a module ``tasks`` too.
"""

from __future__ import annotations

from pathlib import Path

_FOLDERS = ("config", "tasks", "workers")
_IN_WHEEL = (Path(__file__).parents[2] / "dspex_fleet" / "workers").is_dir()

OWN_PACKAGES = frozenset({"dspex_fleet", "snakepit_bridge", *(() if _IN_WHEEL else _FOLDERS)})
