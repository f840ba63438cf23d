"""The store's server-side scripts."""

from __future__ import annotations

from snakepit_bridge.redis import scripts

SCRIPTS = (
    "checks", "confirm", "confirm_all", "declare", "drop", "fence", "head", "heads", "history", "label", "labels",
    "prune", "publish", "read", "read_at", "retain", "rollback", "turn", "unlabel",
)  # fmt: skip


def source(script: str) -> str:
    """Returns the whole text of a script; see ``scripts.source``."""
    return scripts.source(__name__, script)
