"""How an argument's error looks: typer checks arguments by pydantic, and prints that library's messages as they are."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

import typer
from typer.core import TyperGroup


class CommandLine(TyperGroup):
    """The command line, whose usage errors are in plain words whichever command they are of."""

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return the context of the shared options."""
        with plain_usage_errors():
            return super().make_context(info_name, args, parent, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the context names."""
        with plain_usage_errors():
            return super().invoke(ctx)


@contextmanager
def plain_usage_errors() -> Generator[None]:
    """Translate the message of an argument's error."""
    try:
        yield
    except typer.BadParameter as exc:
        from snakepit_bridge.protocol.validation_text import to_plain_text

        exc.message = to_plain_text(exc.message)
        raise
