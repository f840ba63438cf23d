"""A message as it lies in its list: read without trust, and marked before it goes back.

The format is kombu's, so that any Celery client can send and any Celery worker could receive. One property is ours:
``deliveries``, how often a message was given out if it went down with a worker each time but this.
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
"""Where ``told`` says what waits for a task beside its client."""

_BROKEN = (ValueError, TypeError, LookupError, AttributeError, RecursionError, DecodeError)


class UnreadableMessage(ValueError):
    """What lies in a list is no message, or its body is broken."""


def parse(raw: bytes) -> dict[str, Any]:
    """Returns a message's envelope.

    Raises:
        UnreadableMessage: it isn't one.
    """
    try:
        payload: Any = read_message(raw)
        mappings = (payload, payload["properties"], payload["properties"]["delivery_info"])
        if not all(isinstance(one, dict) for one in (*mappings, payload.get("headers", {}))):
            raise TypeError("its properties or headers are no objects")
    except _BROKEN as broken:
        raise UnreadableMessage(f"{type(broken).__name__}: {broken}") from broken
    return payload


def to_kombu_message(channel: Any, payload: dict[str, Any], tag: str) -> Any:
    """Returns the kombu message of an envelope, with the claim's tag; a body of JSON has been decoded.

    Raises:
        UnreadableMessage: the body is broken.
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
    except _BROKEN as broken:
        raise UnreadableMessage(f"{type(broken).__name__}: {broken}") from broken
    return message


def count_deliveries(payload: Mapping[str, Any]) -> int:
    """Returns how often a message was given out, this time included; losses with dead workers are what counts."""
    count = payload["properties"].get("deliveries", 1)
    return count if isinstance(count, int) else 1


def eta_s(payload: Mapping[str, Any]) -> float | None:
    """Returns the Unix time before which a message isn't to be run, None if it may be now."""
    eta = (payload.get("headers") or {}).get("eta")
    if not isinstance(eta, str):
        return None
    try:
        due = datetime.fromisoformat(eta)
    except ValueError:
        return None  # Celery refuses it under its own name
    return due.timestamp() if due.tzinfo else None


def encode_redelivery(payload: dict[str, Any], *, lost: bool = False) -> bytes:
    """Returns a message as it goes back to its list: marked as redelivered, and counted if its worker was lost."""
    if lost:
        payload["properties"]["deliveries"] = count_deliveries(payload) + 1
    if isinstance(payload.get("headers"), dict):
        payload["headers"]["redelivered"] = True
    payload["properties"]["delivery_info"]["redelivered"] = True
    return dumps(payload).encode()


def summarize(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is told of a message: its task, whose ends wait for it, and how often it was given out.

    It is all in the headers, which can be read where the body can't.
    """
    headers: Mapping[str, Any] = payload.get("headers") or {}
    named = {"task": headers.get("task"), "task_id": headers.get("id")}
    named |= {name: headers[name] for name in (REPLY_CHANNEL, PROGRAM, TASK_IDS) if name in headers}
    return {**named, **_find_callbacks(payload), "deliveries": count_deliveries(payload)}


def _find_callbacks(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return what waits for a task beside its client: the rest of its chain, its chord, its error callbacks."""
    try:
        body: Any = json.loads(b64decode(payload["body"]))
        embed = {name: body[2][name] for name in ("chain", "chord", "errbacks") if body[2].get(name)}
    except _BROKEN:
        return {}
    return {EMBED: embed} if embed else {}
