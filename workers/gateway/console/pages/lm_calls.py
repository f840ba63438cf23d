"""The LM calls of a prediction, with their prompts and answers, where workers capture them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.responses import Response

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.variables.codec import parse
from workers.gateway.console.page import Page, Visit, whole_text
from workers.gateway.errors import MalformedError

_OPERATION = "Predictions.ListLMCalls"
# What one page shows; the rest is in the text of all of them.
_SHOWN = 50


@dataclass(frozen=True, slots=True)
class ShownMessage:
    """A message of an LM call.

    Attributes:
        role: who speaks.
        text: what it says; a part that is no text is JSON.
        note: what else is known of it.
    """

    role: str
    text: str
    note: str = ""

    @classmethod
    def from_form(cls, form: Mapping[str, Any]) -> ShownMessage:
        """Return a captured message as it is shown."""
        text = "\n\n".join(_format_part(part) for part in form["parts"])
        reason = str(form.get("finish_reason", ""))
        return cls(str(form["role"]), text, f"finished by {reason}" if reason else "")


@dataclass(frozen=True, slots=True)
class ShownCall:
    """An LM call with its messages, the answer last."""

    call: pb.LMCall
    messages: tuple[ShownMessage, ...]

    @classmethod
    def from_message(cls, call: pb.LMCall) -> ShownCall:
        """Return a call of the API as it is shown."""
        forms = [*parse(call.messages_json), *([parse(call.answer_json)] if call.answer_json else [])]
        return cls(call, tuple(map(ShownMessage.from_form, forms)))


async def read_lm_calls(visit: Visit, task_id: str) -> dict[str, Any]:
    """Return what a prediction's page shows of its LM calls: nothing to who may not see prompts and answers.

    Args:
        visit: of the page.
        task_id: the prediction, which the visitor may see.
    """
    if not visit.can(_OPERATION):
        return {"may_see_calls": False, "lm_calls": [], "is_captured": False, "left_out": 0}
    found = await visit.call(_OPERATION, pb.ListLMCallsRequest(id=task_id))
    return {
        "may_see_calls": True,
        "lm_calls": [ShownCall.from_message(call) for call in found.calls[:_SHOWN]],
        "is_captured": found.captured,
        "left_out": len(found.calls[_SHOWN:]) + found.omitted,
    }


async def show_message(visit: Visit) -> Response:
    """Show a whole message of an LM call as plain text."""
    found = await visit.call(_OPERATION, pb.ListLMCallsRequest(id=visit.query.get("id", "")))
    calls = found.calls
    messages = ShownCall.from_message(calls[place]).messages if (place := _place(visit, "call")) < len(calls) else ()
    if (at := _place(visit, "message")) >= len(messages):
        raise MalformedError("message", "the prediction has no such call or message")
    return whole_text(messages[at].text)


async def show_all(visit: Visit) -> Response:
    """Show all LM calls of a prediction as JSON."""
    found = await visit.call(_OPERATION, pb.ListLMCallsRequest(id=visit.query.get("id", "")))
    forms = [
        {
            "profile": call.profile,
            "model": call.model,
            "error": call.error,
            "messages": parse(call.messages_json),
            "answer": parse(call.answer_json) if call.answer_json else None,
        }
        for call in found.calls
    ]
    return whole_text(json.dumps(forms, ensure_ascii=False, indent=2))


def _format_part(part: Mapping[str, Any]) -> str:
    content = part.get("content")
    return content if isinstance(content, str) else json.dumps(part, ensure_ascii=False)


def _place(visit: Visit, name: str) -> int:
    text = visit.query.get(name, "")
    if not (text.isascii() and text.isdigit() and len(text) < 6):
        raise MalformedError(name, f"it is a whole number; got {text[:40]!r}")
    return int(text)


LM_CALL_PAGES = (
    Page("/prediction/lm-calls", show_all, _OPERATION),
    Page("/prediction/lm-calls/message", show_message, _OPERATION),
)
