"""The cache's server-side scripts, each in a ``.lua`` file of its own."""

from __future__ import annotations

from functools import cache
from importlib.resources import files

from snakepit_bridge.stores.connection import Script


@cache
def script(name: str) -> Script:
    """Returns a script by its name.

    Raises:
        FileNotFoundError: there is no such script.
    """
    return Script((files(__name__) / f"{name}.lua").read_text(encoding="utf-8"))
