"""Parts of a message that DSPy's canonical request has no form for: sounds, named files, documents, one's own types.

With its own engines DSPy sends such a message through litellm as it is. Here the request holds short texts that stand
for these parts, so that it can be limited, tried again and told from others like any request, and the message itself
travels among its extensions until it is sent.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

from dspy.lm15 import Request

MESSAGES = "dspex_messages"
"""The extension that holds the messages as they are. It is never sent by this name."""

# What the canonical request, and each of DSPy's clients, has a form for.
_CANONICAL = frozenset({"text", "image_url"})


def replace_opaque_parts(messages: Any) -> Any | None:
    """Return messages in which texts stand for the parts that have no canonical form; None if there are none."""
    if not isinstance(messages, list) or not any(_has_opaque_parts(one) for one in cast("list[Any]", messages)):
        return None
    return [_replace_in_message(one) if _has_opaque_parts(one) else one for one in cast("list[Any]", messages)]


def split_original_messages(request: Request) -> tuple[Request, list[Any] | None]:
    """Return a request without the messages that travel with it, and these; None where there are none."""
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
    return {**message, "content": [_make_placeholder(one) if _is_opaque(one) else one for one in message["content"]]}


def _make_placeholder(part: Mapping[str, Any]) -> dict[str, str]:
    digest = hashlib.sha256(json.dumps(part, sort_keys=True, default=str).encode()).hexdigest()
    return {"type": "text", "text": f"[{part.get('type')} {digest}]"}
