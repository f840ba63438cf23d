"""``lm-calls``: what the LM calls of a finished prediction asked and were answered."""

from __future__ import annotations

import json as json_text
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snakepit_bridge.cli.connection_options import AsJson, RedisUrl, resolve_fleet
from snakepit_bridge.cli.output import dump_json, echo

if TYPE_CHECKING:
    from snakepit_bridge.lm.captured_calls import CapturedCall

_HINT = "its workers run without DSPEX_CAPTURE_LM_CALLS, it made none, or its result has expired"


def lm_calls(
    ctx: typer.Context,
    task_id: Annotated[str, typer.Argument(metavar="TASK_ID", help="Id of the prediction.", show_default=False)],
    json: AsJson = False,
    redis_url: RedisUrl = None,
) -> None:
    """Show the prompts and answers of a finished prediction's LM calls, where workers capture them."""
    found = resolve_fleet(ctx, redis_url).fleet().lm_calls(task_id)
    if json:
        calls = None if found is None else [call.encode() for call in found.calls]
        echo(dump_json({"calls": calls, "omitted": 0 if found is None else found.omitted}))
        return
    if found is None:
        echo(f"No LM calls of prediction {task_id} are kept: {_HINT}.")
        return
    for number, call in enumerate(found.calls, 1):
        echo(f"--- {number}: {_describe(call)}")
        if call.is_cut:
            echo("(its texts weren't kept: the prediction's calls are too large)")
        for message in (*call.messages, *([] if call.answer is None else [call.answer])):
            echo(f"[{message['role']}]\n" + "\n".join(map(_format_part, message["parts"])))
    if found.omitted:
        echo(f"--- and {found.omitted} further calls, which weren't kept")


def _describe(call: CapturedCall) -> str:
    usage, cost = call.usage, call.usage.cost_usd
    known = [f"{call.model} ({call.profile})", f"{call.duration_s:.3f} s"]
    if call.error:
        known.append(f"failed: {call.error}")
    elif not usage.calls:
        known.append("answered without a request, by the cache or the journal")
    if usage.calls:
        known.append(f"{usage.input_tokens} + {usage.output_tokens} tokens")
        known.append("cost unknown" if cost is None else f"${cost}")
    return ", ".join(known)


def _format_part(part: Mapping[str, Any]) -> str:
    content = part.get("content")
    return content if isinstance(content, str) else json_text.dumps(dict(part), ensure_ascii=False)
