"""Prompts and answers as the GenAI conventions encode them: ``gen_ai.input.messages`` and ``gen_ai.output.messages``.

Schemas: gen-ai-input-messages.json and gen-ai-output-messages.json of the conventions. The data of images, audio and
files stays out.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from dspy.lm15 import Message, Request, Response, TextPart, ThinkingPart, ToolCallPart, ToolResultPart

from snakepit_bridge.telemetry.instruments import Attributes


def describe_content(request: Request, response: Response) -> Attributes:
    """Return the texts of a call, which the conventions' switch alone allows."""
    system = _describe_system(request.system)
    return {
        "gen_ai.system_instructions": _encode(system) if system else None,
        "gen_ai.input.messages": _encode([_describe_message(message) for message in request.messages]),
        "gen_ai.output.messages": _encode([describe_answer(response)]),
    }


def describe_messages(request: Request) -> list[dict[str, Any]]:
    """Return the messages of a request, the system's first."""
    system = _describe_system(request.system)
    messages = [{"role": "system", "parts": system}] if system else []
    return [*messages, *map(_describe_message, request.messages)]


def describe_answer(response: Response) -> dict[str, Any]:
    """Return the message of a response, with its finish reason."""
    return {**_describe_message(response.message), "finish_reason": str(response.finish_reason)}


def _describe_system(system: object) -> list[dict[str, Any]]:
    if not system:
        return []
    return [{"type": "text", "content": system if isinstance(system, str) else str(system)}]


def _encode(values: Sequence[object]) -> str:
    return json.dumps(values, ensure_ascii=False, default=str)


def _describe_message(message: Message) -> dict[str, Any]:
    return {"role": message.role, "parts": [_describe_part(part) for part in message.parts]}


def _describe_part(part: Any) -> dict[str, Any]:
    match part:
        case TextPart():
            return {"type": "text", "content": part.text}
        case ThinkingPart():
            return {"type": "reasoning", "content": part.text}
        case ToolCallPart():
            return {"type": "tool_call", "id": part.id, "name": part.name, "arguments": part.input}
        case ToolResultPart():
            response = [_describe_part(content) for content in part.content]
            return {"type": "tool_call_response", "id": part.id, "response": response}
        case _ if hasattr(part, "media_type"):
            return _describe_medium(part)
        case _:
            return {"type": part.type, "content": getattr(part, "text", None)}


def _describe_medium(part: Any) -> dict[str, Any]:
    described = {"modality": part.type, "mime_type": part.media_type}
    if part.url and not part.url.startswith("data:"):
        return {"type": "uri", "uri": part.url, **described}
    return {"type": "file", "file_id": part.file_id, **described} if part.file_id else {"type": part.type, **described}
