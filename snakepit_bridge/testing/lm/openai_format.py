"""OpenAI's chat completions, as far as DSPy's engines and OpenAI's clients read them. Token counts are estimates."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_PIECES = 8


def completion(body: Mapping[str, Any], texts: Sequence[str], index: int) -> dict[str, Any]:
    """Return the answer to a chat request: one choice per text."""
    choices = [
        {"index": place, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        for place, text in enumerate(texts)
    ]
    return _head(body, index, "chat.completion") | {"choices": choices, "usage": usage(body, texts)}


def _head(body: Mapping[str, Any], index: int, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-{index}", "object": kind, "created": int(time.time()), "model": body.get("model", "")}


def usage(body: Mapping[str, Any], texts: Sequence[str]) -> dict[str, int]:
    """Return token counts, estimated as a quarter of the characters."""
    prompt_tokens = sum(len(str(message.get("content", ""))) for message in body.get("messages", ())) // 4
    completion_tokens = sum(len(text) for text in texts) // 4
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def events(body: Mapping[str, Any], texts: Sequence[str], index: int, characters: int | None = None) -> Iterator[bytes]:
    """Yield the same answer as server-sent events, each text in a few pieces or of so many characters each."""
    head = _head(body, index, "chat.completion.chunk")
    for place, text in enumerate(texts):
        for delta in _deltas(text, characters):
            yield _event(head | {"choices": [{"index": place, "delta": delta, "finish_reason": None}]})
        yield _event(head | {"choices": [{"index": place, "delta": {}, "finish_reason": "stop"}]})
    if (body.get("stream_options") or {}).get("include_usage"):
        yield _event(head | {"choices": [], "usage": usage(body, texts)})
    yield b"data: [DONE]\n\n"


def _deltas(text: str, characters: int | None) -> Iterator[dict[str, str]]:
    yield {"role": "assistant", "content": ""}
    size = characters or max(1, -(-len(text) // _PIECES))
    for start in range(0, len(text), size):
        yield {"content": text[start : start + size]}


def _event(chunk: Mapping[str, Any]) -> bytes:
    return b"data: " + json.dumps(chunk).encode() + b"\n\n"


def error(message: str, kind: str, code: str | None = None) -> dict[str, Any]:
    """Return an error body in OpenAI's form."""
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def models(names: Sequence[str]) -> dict[str, Any]:
    """Return the list that GET /v1/models gives."""
    return {"object": "list", "data": [{"id": name, "object": "model", "owned_by": "dspex-fleet"} for name in names]}
