"""Task states: whether a result that Celery stored is final. ``client/lua/final_state.lua`` is the same for scripts."""

from __future__ import annotations

import json
from typing import Any, cast

from celery.states import READY_STATES


def is_final_state(state: str) -> bool:
    """Check whether no other state follows a state of Celery's: a success, a failure or a cancellation."""
    return state in READY_STATES


def is_final(stored: bytes | None) -> bool:
    """Check whether a stored result is final; one that isn't stored (yet), or isn't a result, is not."""
    if stored is None:
        return False
    try:
        result: Any = json.loads(stored)
    except (ValueError, RecursionError):
        return False
    state = cast("dict[str, Any]", result).get("status") if isinstance(result, dict) else None
    return isinstance(state, str) and is_final_state(state)
