"""Messages as they are stored in Redis lists: parsed as untrusted input, and marked before they are redelivered.

The format is kombu's, so that any Celery client can send and any Celery worker could receive. One property is ours:
``deliveries``, the number of deliveries including this one; all earlier ones were lost with their workers.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from kombu.exceptions import DecodeError
from kombu.utils.json import dumps

from snakepit_bridge.protocol.json_values import read_message
from snakepit_bridge.protocol.messages import PROGRAM, REPLY_CHANNEL, TASK_IDS

JSON = "application/json"

EMBED = "embed"
"""The field of ``summarize`` for the rest of a task's chain, its chord and its error callbacks."""

_BROKEN = (ValueError, TypeError, LookupError, AttributeError, RecursionError, DecodeError)


class UnreadableMessageError(ValueError):
    """A list entry isn't a message, or its body is broken."""


def parse(raw: bytes) -> dict[str, Any]:
    """Return a message's envelope.

    Raises:
        UnreadableMessageError: the bytes aren't a kombu message.
    """
    try:
        payload: Any = read_message(raw)
        mappings = (payload, payload["properties"], payload["properties"]["delivery_info"])
        if not all(isinstance(mapping, dict) for mapping in (*mappings, payload.get("headers", {}))):
            raise TypeError("its properties or headers aren't objects")
    except _BROKEN as exc:
        raise UnreadableMessageError(f"{type(exc).__name__}: {exc}") from exc
    return payload


def to_kombu_message(channel: Any, payload: dict[str, Any], tag: str) -> Any:
    """Return the kombu message of an envelope, with the claim's tag and a JSON body decoded.

    Raises:
        UnreadableMessageError: the body is broken.
    """
    properties = payload["properties"]
    properties["delivery_tag"] = tag
    properties.setdefault("deliveries", 1)
    try:
        message = channel.Message(payload, channel=channel)
        if message.content_type == JSON:
            if not message.body:
                raise ValueError("its body is empty")
            # kombu keeps what it decodes, so that Celery doesn't do it again.
            message.decode()
    except _BROKEN as exc:
        raise UnreadableMessageError(f"{type(exc).__name__}: {exc}") from exc
    return message


def count_deliveries(payload: Mapping[str, Any]) -> int:
    """Return the number of deliveries, including this one; only losses with dead workers count."""
    count = payload["properties"].get("deliveries", 1)
    return count if isinstance(count, int) else 1


def eta_s(payload: Mapping[str, Any]) -> float | None:
    """Return the message's ETA as Unix time, or None if it has none."""
    eta = (payload.get("headers") or {}).get("eta")
    if not isinstance(eta, str):
        return None
    try:
        due = datetime.fromisoformat(eta)
    except ValueError:
        return None  # Celery rejects it with its own error
    return due.timestamp() if due.tzinfo else None


def encode_redelivery(payload: dict[str, Any], *, lost: bool = False) -> bytes:
    """Return a message to requeue: marked as redelivered, and with one more delivery if its worker was lost."""
    if lost:
        payload["properties"]["deliveries"] = count_deliveries(payload) + 1
    if isinstance(payload.get("headers"), dict):
        payload["headers"]["redelivered"] = True
    payload["properties"]["delivery_info"]["redelivered"] = True
    return dumps(payload).encode()


def summarize(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a summary of a message: its task, the prediction's reply channel and ids, and its deliveries.

    All of it comes from the headers, which are readable even if the body isn't.
    """
    headers: Mapping[str, Any] = payload.get("headers") or {}
    named = {"task": headers.get("task"), "task_id": headers.get("id")}
    named |= {name: headers[name] for name in (REPLY_CHANNEL, PROGRAM, TASK_IDS) if name in headers}
    return {**named, **_find_callbacks(payload), "deliveries": count_deliveries(payload)}


def _find_callbacks(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return the rest of a task's chain, its chord and its error callbacks."""
    try:
        body: Any = json.loads(b64decode(payload["body"]))
        embed = {name: body[2][name] for name in ("chain", "chord", "errbacks") if body[2].get(name)}
    except _BROKEN:
        return {}
    return {EMBED: embed} if embed else {}
