"""Stored task results, as the result backend keeps them."""

from __future__ import annotations

import json

from celery.states import READY_STATES


def is_final(stored: bytes | None) -> bool:
    """Return whether a stored result, or its absence, is final: a success, a failure or a cancellation."""
    return stored is not None and json.loads(stored)["status"] in READY_STATES
