"""Prompts and answers in spans have the form that the GenAI conventions' JSON schemas ask for."""

from __future__ import annotations

import json
from typing import Any

import pytest
from dspy.lm15 import (
    Config,
    ImagePart,
    Message,
    Request,
    Response,
    TextPart,
    ThinkingPart,
    ToolCallPart,
    ToolResultPart,
    Usage,
)

from tasks.lm_middleware.message_content import describe_content


def described(part: Any, role: Any = "user", *, system: str | None = None, reason: Any = "stop") -> dict[str, Any]:
    """Return the attributes of a call with this part in its prompt, and "Hi" as its answer, decoded."""
    request = Request("demo", (Message(role, (part,)),), system=system, config=Config())
    response = Response("id", "demo", Message("assistant", (TextPart("Hi"),)), reason, Usage())
    found = describe_content(request, response)
    return {name: value and json.loads(value) for name, value in found.items()}


def test_an_answer_says_why_it_ended() -> None:
    text = {"type": "text", "content": "Hi"}
    assert described(TextPart("Hi"), system="Be brief.", reason="length") == {
        "gen_ai.system_instructions": [{"type": "text", "content": "Be brief."}],
        "gen_ai.input.messages": [{"role": "user", "parts": [text]}],
        "gen_ai.output.messages": [{"role": "assistant", "parts": [text], "finish_reason": "length"}],
    }


def test_a_call_without_a_system_message_has_no_instructions() -> None:
    assert described(TextPart("Hi"))["gen_ai.system_instructions"] is None


@pytest.mark.parametrize(
    ("role", "part", "expected"),
    [
        ("assistant", ThinkingPart("Hm."), {"type": "reasoning", "content": "Hm."}),
        (
            "assistant",
            ToolCallPart("1", "search", {"query": "é"}),
            {"type": "tool_call", "id": "1", "name": "search", "arguments": {"query": "é"}},
        ),
        (
            "tool",
            ToolResultPart("1", (TextPart("Paris"),)),
            {"type": "tool_call_response", "id": "1", "response": [{"type": "text", "content": "Paris"}]},
        ),
        (
            "user",
            ImagePart("image/png", url="https://example.org/a.png"),
            {"type": "uri", "uri": "https://example.org/a.png", "modality": "image", "mime_type": "image/png"},
        ),
        (
            "user",
            ImagePart("image/png", file_id="f-1"),
            {"type": "file", "file_id": "f-1", "modality": "image", "mime_type": "image/png"},
        ),
    ],
)
def test_each_part_has_the_form_of_its_schema(role: str, part: Any, expected: dict[str, Any]) -> None:
    assert described(part, role)["gen_ai.input.messages"][0]["parts"] == [expected]


@pytest.mark.parametrize("part", [ImagePart("image/png", data="c2VjcmV0"), ImagePart("image/png", url="data:c2VjcmV0")])
def test_the_data_of_an_image_stays_out(part: ImagePart) -> None:
    found = described(part)["gen_ai.input.messages"][0]["parts"]
    assert found == [{"type": "image", "modality": "image", "mime_type": "image/png"}]
