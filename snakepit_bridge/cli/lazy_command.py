"""Commands that import their code when they are called, so that help and completion stay fast."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

import typer
from typer.core import TyperCommand

# For commands that pass what they don't know to another program.
ANY_ARGUMENTS: Mapping[str, Any] = {"allow_extra_args": True, "ignore_unknown_options": True}


class LazyCommand(TyperCommand):
    """What a group's help shows of a command. Calling it imports the command itself.

    The summary repeats the first line of the command's docstring, which isn't known before the import.
    """

    def __init__(
        self,
        name: str,
        target: str,
        summary: str,
        panel: str,
        context_settings: Mapping[str, Any] | None = None,
    ) -> None:
        """Describe a command.

        Args:
            name: what is typed on the command line.
            target: ``module:attribute`` of a function, or of a ``typer.Typer`` with commands of its own.
            summary: its line in the group's help.
            panel: heading of the group's help under which it stands.
            context_settings: of the context in which it runs, such as ``ANY_ARGUMENTS``.
        """
        super().__init__(name, help=summary, rich_help_panel=panel, context_settings=dict(context_settings or {}))
        self._target = target

    def load(self) -> Any:
        """Import the command and return it, with its parameters."""
        module, _, attribute = self._target.partition(":")
        found = getattr(importlib.import_module(module), attribute)
        if isinstance(found, typer.Typer):
            return _fold_help(typer.main.get_command(found))
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(self.name, context_settings=dict(self.context_settings))(found)
        return _fold_help(typer.main.get_command(app))

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        """Return a context of the loaded command: the group invokes what that context names."""
        return self.load().make_context(info_name, args, parent, **extra)


def _fold_help(command: Any) -> Any:
    """Return a command whose help is folded at the terminal's width, and not where its docstring is."""
    if command.help and "\b" not in command.help:
        command.help = "\n\n".join(" ".join(part.split()) for part in command.help.split("\n\n"))
    for sub in getattr(command, "commands", {}).values():
        _fold_help(sub)
    return command
