"""The cache key of an LM call: its request, endpoint, account and tenant."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from snakepit_bridge.lm.compat import request_to_dict
from snakepit_bridge.lm.endpoint import Endpoint
from snakepit_bridge.lm.engine import LMCall
from tasks.prediction_context import PredictionContext


def cache_key(scope: PredictionContext, call: LMCall, *, across_sessions: bool) -> str:
    """Return the cache key of a call.

    A program that makes the same call twice wants two samples, so repeated calls get numbered keys.

    Args:
        scope: the prediction that makes the call.
        call: the call.
        across_sessions: whether all sessions share answers; else each has its own.
    """
    identity = {
        "request": request_to_dict(call.request),
        "rollout": call.rollout_id,
        "endpoint": _endpoint_identity(call.engine.endpoint),
        "tenant": None if across_sessions else scope.session,
    }
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True, default=repr).encode()).hexdigest()
    before = scope.call_counts[digest]
    scope.call_counts[digest] += 1
    return digest if not before else f"{digest}.{before}"


def _endpoint_identity(endpoint: Endpoint) -> dict[str, Any]:
    """Identify the endpoint and its account; the API key itself is hashed."""
    key = endpoint.api_key.get_secret_value() if endpoint.api_key is not None else ""
    account = hashlib.sha256(f"dspex {endpoint.profile} {key}".encode()).hexdigest()
    return {"model": endpoint.model, "api_base": endpoint.api_base, "account": account, "client": dict(endpoint.client)}
