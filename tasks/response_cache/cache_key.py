"""What makes two LM calls the same: the request as it is sent, where it is sent and as whom, and on whose behalf."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from dspy._vendor.lm15.serde import request_to_dict

from snakepit_bridge.lm.endpoint import Endpoint
from snakepit_bridge.lm.engine import LMCall
from tasks.prediction_context import PredictionContext


def cache_key(scope: PredictionContext, call: LMCall, *, across_sessions: bool) -> str:
    """Return the name of a call's answer.

    A program that asks the same twice wants two answers (``n``, another sample), so its second call is another one.

    Args:
        scope: the prediction that asks.
        call: what it asks.
        shared: whether all sessions share answers; else each has its own.
    """
    said = {
        "request": request_to_dict(call.request),
        "rollout": call.rollout_id,
        "endpoint": _endpoint_identity(call.engine.endpoint),
        "tenant": None if across_sessions else scope.session,
    }
    digest = hashlib.sha256(json.dumps(said, sort_keys=True, default=repr).encode()).hexdigest()
    before = scope.call_counts[digest]
    scope.call_counts[digest] += 1
    return digest if not before else f"{digest}.{before}"


def _endpoint_identity(endpoint: Endpoint) -> dict[str, Any]:
    """Another key is another account, whose answers are nobody else's; the key itself goes into no name."""
    key = endpoint.api_key.get_secret_value() if endpoint.api_key is not None else ""
    account = hashlib.sha256(f"dspex {endpoint.profile} {key}".encode()).hexdigest()
    return {"model": endpoint.model, "api_base": endpoint.api_base, "account": account, "client": dict(endpoint.client)}
