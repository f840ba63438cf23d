"""Message parts that DSPy's canonical request can't represent: audio, named files, documents, custom types.

DSPy's own engines send such messages through litellm unchanged. Here the request holds short placeholder texts for
these parts, so that it can be rate-limited, retried and cached like any request, and the original messages travel in
its extensions until it is sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from dspy.lm15 import Request

MESSAGES = "dspex_messages"
"""The extension that holds the original messages. It is never sent under this name."""

# The parts that the canonical request, and each of DSPy's clients, can represent.
_CANONICAL = frozenset({"text", "image_url"})


def replace_opaque_parts(messages: Any) -> Any | None:
    """Return messages with placeholders for the parts that have no canonical form; None if there are no such parts."""
    if not isinstance(messages, list) or not any(_has_opaque_parts(message) for message in cast("list[Any]", messages)):
        return None
    return [
        _replace_in_message(message) if _has_opaque_parts(message) else message
        for message in cast("list[Any]", messages)
    ]


def split_original_messages(request: Request) -> tuple[Request, list[Any] | None]:
    """Return a request without the original messages in its extensions, and those messages, or None."""
    extensions: Mapping[str, Any] = request.config.extensions or {}
    if MESSAGES not in extensions:
        return request, None
    left = {name: value for name, value in extensions.items() if name != MESSAGES}
    return replace(request, config=replace(request.config, extensions=left or None)), list(
        cast("list[Any]", extensions[MESSAGES])
    )


def _has_opaque_parts(message: Any) -> bool:
    content = cast("Mapping[str, Any]", message).get("content") if isinstance(message, dict) else None
    return isinstance(content, list) and any(map(_is_opaque, cast("Sequence[Any]", content)))


def _is_opaque(part: Any) -> bool:
    return isinstance(part, dict) and cast("dict[str, Any]", part).get("type") not in _CANONICAL


def _replace_in_message(message: Mapping[str, Any]) -> dict[str, Any]:
    return {
        **message,
        "content": [_make_placeholder(message) if _is_opaque(message) else message for message in message["content"]],
    }


def _make_placeholder(part: Mapping[str, Any]) -> dict[str, str]:
    digest = hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()
    return {"type": "text", "text": f"[{part.get('type')} {digest}]"}
