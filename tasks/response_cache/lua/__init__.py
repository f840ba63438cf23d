"""The cache's server-side scripts."""

from __future__ import annotations

from functools import cache

from snakepit_bridge.redis import scripts
from snakepit_bridge.redis.connection import Script


@cache
def script(name: str) -> Script:
    """Returns a script by its name.

    Raises:
        FileNotFoundError: there is no such script.
    """
    return Script(scripts.source(__name__, name))
