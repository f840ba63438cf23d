"""The retry policy that holds for a prediction: its profile's, with what its session says of it."""

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
    """Return the policy of a profile's calls under a snapshot.

    Raises:
        ValidationError: the session's variable isn't such an object; no LM is called then.
    """
    said = snapshot.variables.get(RETRY)
    return profile if said is None else _override(profile, said.value)


@functools.lru_cache(maxsize=256)
def _override(profile: RetryPolicy, said: Any) -> RetryPolicy:
    try:
        fields = json.loads(said) if isinstance(said, str) else said
        if not isinstance(fields, dict):
            raise ValueError("it must be a JSON object")
        return profile.changed(fields)
    except ValueError as refused:
        rule = f"it says how LM calls are tried again, and {refused}"
        raise ValidationError(RETRY, shown(said), rule) from None
