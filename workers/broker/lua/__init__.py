"""The transport's server-side scripts."""

from __future__ import annotations

from snakepit_bridge.redis import scripts


def source(script: str) -> str:
    """Returns the whole text of a script; see ``scripts.source``."""
    return scripts.source(__name__, script)
