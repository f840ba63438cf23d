"""From a message's keywords to a request, and from Celery's request to how it came here, for one and for many."""

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
    """Return the request that a message makes.

    Args:
        program: its program.
        inputs: its inputs.
        keywords: its keywords; those that a default stands for may be missing.
        namespace: the one that this worker serves.

    Raises:
        ForeignNamespaceError: it was sent in another namespace.
        ConfigurationError: another version of the message, or a keyword of a newer one.
        SessionNameError: it names no session.
        BridgeError: its requirement can't be read.
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
    """Return how the message of the running task came to this worker."""
    asked: Any = task.request
    route: Mapping[str, Any] = asked.delivery_info or {}
    headers: Mapping[str, Any] = asked.headers or {}
    properties: Mapping[str, Any] = asked.properties or {}
    return Delivery(
        task_id=asked.id,
        worker=asked.hostname or "",
        attempt=asked.retries + 1,
        sent_at=float(headers.get(SENT_AT, 0.0)),
        priority=route.get("priority") or 0,
        queue=route.get("routing_key") or "",
        claim=str(properties.get("delivery_tag") or ""),
        # Our transport counts; another broker's only says whether it is the first time.
        deliveries=int(properties.get("deliveries") or (2 if route.get("redelivered") else 1)),
        reply_channel=str(headers.get(REPLY_CHANNEL) or ""),
        tries=int(headers.get(LM_TRIES) or 0),
        failing_s=float(headers.get(LM_FAILING_S) or 0.0),
    )


def _parse_requirement(text: str) -> Requirement:
    try:
        return Requirement.parse(text)
    except ValueError as unreadable:
        raise BridgeError(str(unreadable)) from None
