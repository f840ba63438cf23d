"""Task states: whether a result that Celery stored is final. ``client/lua/final_state.lua`` is the same for scripts."""

from __future__ import annotations

import json

from celery.states import READY_STATES


def is_final_state(state: str) -> bool:
    """Check whether no other state follows a state of Celery's: a success, a failure or a cancellation."""
    return state in READY_STATES


def is_final(stored: bytes | None) -> bool:
    """Check whether a stored result is final; None is a result that isn't stored (yet)."""
    return stored is not None and is_final_state(json.loads(stored)["status"])
