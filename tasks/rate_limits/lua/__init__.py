"""The limits' server-side scripts. ``claim_take`` is the broker transport's own library; its text is handed in."""

from __future__ import annotations

from snakepit_bridge.redis import scripts


def source(script: str, **handed_in: str) -> str:
    """Returns the whole text of a script; see ``scripts.source``."""
    return scripts.source(__name__, script, **handed_in)
