"""The effective retry policy of a prediction: its profile's, overridden by its session."""

from __future__ import annotations

import functools
import json
from typing import Any

from snakepit_bridge.exceptions import ValidationError
from snakepit_bridge.lm.policies import RetryPolicy
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables.codec import shown

RETRY = "dspex.retry"
"""Session variable with a JSON object of :class:`RetryPolicy`'s fields, such as ``{"attempts": 5}``."""


def effective_retry_policy(profile: RetryPolicy, snapshot: Snapshot) -> RetryPolicy:
    """Return a profile's retry policy with the overrides of a snapshot.

    Raises:
        ValidationError: the session's variable isn't a JSON object of valid fields.
    """
    variable = snapshot.variables.get(RETRY)
    return profile if variable is None else _override(profile, variable.value)


@functools.lru_cache(maxsize=256)
def _override(profile: RetryPolicy, value: Any) -> RetryPolicy:
    try:
        fields = json.loads(value) if isinstance(value, str) else value
        if not isinstance(fields, dict):
            raise ValueError("it must be a JSON object")
        return profile.changed(fields)
    except ValueError as exc:
        rule = f"it says how LM calls are tried again, and {exc}"
        raise ValidationError(RETRY, shown(value), rule) from None
