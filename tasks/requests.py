"""Parse a task message: its keywords into a request, and Celery's task request into a delivery."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celery import Task

from snakepit_bridge.exceptions import BridgeError, ConfigurationError, ForeignNamespaceError
from snakepit_bridge.protocol.messages import (
    DEFAULT_SESSION,
    LM_FAILING_S,
    LM_TRIES,
    REPLY_CHANNEL,
    SENT_AT,
    VERSION,
    PredictionRequest,
    Requirement,
    check_session,
)
from tasks.prediction import Delivery

_FLAGS = ("chained", "escaped")
_KNOWN_KEYWORDS = {
    "v", "session", "requirement", "deadline", "take", "max_staleness", "outage", "stream", "namespace", *_FLAGS,
}  # fmt: skip


def parse_request(program: str, inputs: Any, keywords: Mapping[str, Any], *, namespace: str) -> PredictionRequest:
    """Parse the request of a message.

    Args:
        program: its program.
        inputs: its inputs.
        keywords: its keywords; those that have a default may be missing.
        namespace: the namespace that this worker serves.

    Raises:
        ForeignNamespaceError: it was sent in another namespace.
        ConfigurationError: its version or one of its keywords is unknown.
        SessionNameError: its session name is invalid.
        BridgeError: its requirement is malformed.
    """
    if unknown := keywords.keys() - _KNOWN_KEYWORDS:
        raise ConfigurationError(f"The request says {', '.join(sorted(unknown))}, which this worker doesn't know.")
    version = keywords.get("v", VERSION)
    if version != VERSION:
        raise ConfigurationError(
            f"The request has version {version}, this worker reads {VERSION}. Upgrade the older side."
        )
    sent_in = str(keywords.get("namespace") or "")
    if sent_in and sent_in != namespace:
        raise ForeignNamespaceError(sent_in, namespace)
    return PredictionRequest(
        program,
        inputs,
        check_session(keywords.get("session", DEFAULT_SESSION)),
        _parse_requirement(keywords.get("requirement", "latest")),
        keywords.get("deadline"),
        keywords.get("take"),
        keywords.get("max_staleness"),
        keywords.get("outage"),
        bool(keywords.get("stream", False)),
        sent_in,
        *(bool(keywords.get(name, False)) for name in _FLAGS),
    )


def parse_delivery(task: Task) -> Delivery:
    """Return how the message of the running task was delivered."""
    request: Any = task.request
    route: Mapping[str, Any] = request.delivery_info or {}
    headers: Mapping[str, Any] = request.headers or {}
    properties: Mapping[str, Any] = request.properties or {}
    return Delivery(
        task_id=request.id,
        worker=request.hostname or "",
        attempt=request.retries + 1,
        sent_at=float(headers.get(SENT_AT, 0.0)),
        priority=route.get("priority") or 0,
        queue=route.get("routing_key") or "",
        claim=str(properties.get("delivery_tag") or ""),
        # Our transport counts deliveries; others only flag a redelivery.
        deliveries=int(properties.get("deliveries") or (2 if route.get("redelivered") else 1)),
        reply_channel=str(headers.get(REPLY_CHANNEL) or ""),
        tries=int(headers.get(LM_TRIES) or 0),
        failing_s=float(headers.get(LM_FAILING_S) or 0.0),
    )


def _parse_requirement(text: str) -> Requirement:
    try:
        return Requirement.parse(text)
    except ValueError as exc:
        raise BridgeError(str(exc)) from None
