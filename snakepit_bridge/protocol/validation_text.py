"""What pydantic finds wrong with a value, in words for people who don't know that pydantic checks it."""

from __future__ import annotations

_OWN_ERROR = "Value error, "
_INPUT = "Input should "


def to_plain_text(message: str) -> str:
    """Return pydantic's message without its prefixes, as what follows a name and a colon.

    Args:
        message: ``msg`` of one of pydantic's findings, or a text that has it at its beginning.
    """
    message = message.removeprefix(_OWN_ERROR)
    if message.startswith(_INPUT):
        message = f"it should {message.removeprefix(_INPUT)}"
    return message
