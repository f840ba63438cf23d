"""The dead letters: messages that the fleet has given up, which can be retried or dropped."""

from __future__ import annotations

import base64
import json
from contextlib import suppress
from typing import Any

from starlette.responses import Response

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.variables.codec import parse
from workers.gateway.console.page import Page, Visit
from workers.gateway.errors import MalformedError

_SHOWN = 200
# Longer messages are shown as they are.
_MAX_PARSED_CHARS = 1_000_000


async def show_dead_letters(visit: Visit) -> Response:
    """Show the latest dead letters."""
    found = await visit.call("DeadLetters.List", pb.ListDeadLettersRequest(limit=_SHOWN))
    return visit.render("dead_letters.html.j2", letters=found.letters, count=found.count)


async def show_dead_letter(visit: Visit) -> Response:
    """Show a dead letter with its message."""
    letter = await visit.call("DeadLetters.Get", pb.DeadLetterRequest(id=visit.query.get("id", "")))
    message, arguments = format_message(letter.message)
    return visit.render("dead_letter.html.j2", letter=letter, message=message, arguments=arguments)


async def retry_dead_letter(visit: Visit) -> Response:
    """Put a message back into its queue."""
    await visit.call("DeadLetters.Retry", pb.DeadLetterRequest(id=visit.form_value("id")))
    return visit.redirect("/dead", done="retried")


async def drop_dead_letter(visit: Visit) -> Response:
    """Delete a message for ever, once its id has been typed."""
    letter_id = visit.form_value("id")
    if visit.form_value("confirm").strip() != letter_id:
        raise MalformedError("confirmation", "type the id of the message to drop it")
    await visit.call("DeadLetters.Drop", pb.DeadLetterRequest(id=letter_id))
    return visit.redirect("/dead", done="dropped")


def format_message(text: str) -> tuple[str, str]:
    """Return a message as people read it, and its task's arguments, which travel in base64.

    Args:
        text: the message, as Celery has it.

    Returns:
        The message, as it is if it isn't JSON, and the arguments; empty if they can't be read.
    """
    if len(text) > _MAX_PARSED_CHARS:
        return text, ""
    message, arguments = text, ""
    with suppress(ValueError, TypeError, LookupError, RecursionError):
        found: Any = parse(text)
        message = _format_json(found)
        body: Any = parse(base64.b64decode(found["body"], validate=True))
        arguments = _format_json({"args": body[0], "kwargs": body[1]})
    return message, arguments


def _format_json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)


PAGES = (
    Page("/dead", show_dead_letters, "DeadLetters.List", menu="Dead letters", section="/dead/", all_sessions=True),
    Page("/dead/message", show_dead_letter, "DeadLetters.Get", all_sessions=True),
    Page("/dead/retry", retry_dead_letter, "DeadLetters.Retry", method="POST", all_sessions=True),
    Page("/dead/drop", drop_dead_letter, "DeadLetters.Drop", method="POST", all_sessions=True),
)
