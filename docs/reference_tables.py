"""The tables of docs/reference that are generated from the code; ``make reference`` writes them into the pages.

The pages hold the tables, so that they can be read where nothing builds the site. A test fails when one is stale.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import SecretStr
from pydantic_settings import BaseSettings

from config.bounds import BoundSettings
from config.settings import FleetSettings
from snakepit_bridge import exceptions
from snakepit_bridge.cli.lazy_command import LazyCommand
from snakepit_bridge.cli.main import command_line

PAGES = Path(__file__).parent / "reference"

# Usage lines are folded at the same width on every terminal.
_USAGE_COLUMNS = 100
_SECTION = re.compile(r"(<!-- generated: (\w+)[^>]*-->\n).*?(?=<!-- end of generated -->)", re.DOTALL)

_SEE = {
    "broker_url": "[delivery](../concepts/delivery.md#rabbitmq)",
    "encryption_keys": "[encrypt](../how-to/encrypt.md)",
    "encryption_keys_file": "[encrypt](../how-to/encrypt.md)",
    "signing_keys": "[sign](../how-to/sign.md)",
    "signing_keys_file": "[sign](../how-to/sign.md)",
    "encryption_accepts_plain": "[encrypt](../how-to/encrypt.md#switch-it-on)",
    "imports": "[extend](../how-to/extend.md)",
    "lm_middleware": "[extend](../how-to/extend.md#lm-middleware)",
    "outage": "[elixir](../concepts/elixir.md#when-elixir-is-away)",
    "stall_limit_s": "[workers](../how-to/run-workers.md)",
    "supervisor_grace_s": "[deploy](../how-to/deploy.md)",
    "own_lms": "[LM calls](lm-calls.md)",
    "log": "[logs](logs.md)",
    "log_redact": "[logs](logs.md)",
    "log_predictions_per_s": "[logs](logs.md)",
    "metric_labels": "[telemetry](telemetry.md)",
    "health_address": "[health endpoints](health.md)",
    "capture_lm_calls": "[LM calls](lm-calls.md#look-at-prompts-and-answers)",
    "trace_url": "[console](../how-to/console.md#predictions-programs-and-evaluations)",
    "cost_days": "[cost](../how-to/cost.md)",
}


def main() -> None:
    """Write the tables into their pages."""
    for page in sorted(PAGES.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if (filled := fill(text)) != text:
            page.write_text(filled, encoding="utf-8")


def fill(text: str) -> str:
    """Return a page with its tables generated anew.

    Args:
        text: of the page; a comment before and behind each table says which one it is.

    Raises:
        KeyError: there is no such table.
    """
    return _SECTION.sub(lambda match: f"{match[1]}\n{_GENERATORS[match[2]]().strip()}\n\n", text)


def command_reference() -> str:
    """Return each command with its usage, arguments and options."""
    return "\n".join(_command_sections(command_line(), ["dspex-fleet"]))


def _command_sections(command: Any, path: list[str]) -> list[str]:
    if isinstance(command, LazyCommand):
        command = command.load()
    context = command.context_class(command, info_name=" ".join(path), terminal_width=_USAGE_COLUMNS)
    usage = command.get_usage(context).removeprefix("Usage: ")
    lines = [
        f"### `{' '.join(path)}`",
        "",
        (command.help or "").split("\f")[0].strip(),
        "",
        "```text",
        usage,
        "```",
        "",
    ]
    options = [parameter for parameter in command.params if getattr(parameter, "help", None)]
    if options:
        lines += ["| argument or option | meaning |", "|---|---|"]
        for parameter in options:
            names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
            variable = f" Environment: `{parameter.envvar}`." if getattr(parameter, "envvar", None) else ""
            lines.append(f"| {names} | {_cell(parameter.help)}{variable} |")
        lines.append("")
    for name, sub in sorted(getattr(command, "commands", {}).items()):
        if not sub.hidden:
            lines += _command_sections(sub, [*path, name])
    return lines


def error_table() -> str:
    """Return a table of the error tree with the first line of each docstring."""
    rows = ["| error | is a | when |", "|---|---|---|"]
    for name, error in vars(exceptions).items():
        if inspect.isclass(error) and issubclass(error, BaseException) and error.__module__ == exceptions.__name__:
            summary = (inspect.getdoc(error) or "").split("\n\n")[0].replace("\n", " ")
            parents = ", ".join(f"`{parent.__name__}`" for parent in error.__bases__)
            rows.append(f"| `{name}` | {parents} | {_cell(summary)} |")
    return "\n".join(rows)


def settings_table(settings: type[BaseSettings], meaning: str) -> str:
    """Return a table of the environment variables of a settings class.

    Args:
        settings: the class.
        meaning: the heading of their descriptions.
    """
    rows = [f"| variable | default | {meaning} |", "|---|---|---|"]
    for name, field in settings.model_fields.items():
        default: Any = field.default
        if isinstance(default, SecretStr):
            default = default.get_secret_value()
        shown = f"{default:g}" if isinstance(default, float) else str(default or "")
        several = "comma-separated " if isinstance(default, tuple) else ""
        switch = "`true`, or `false`: " if isinstance(default, bool) else ""
        see = f", see {_SEE[name]}" if name in _SEE else ""
        text = f"{several}{switch}{_cell(field.description or '')}{see}"
        rows.append(f"| `DSPEX_{name.upper()}` | {f'`{shown}` ' if shown else ''}| {text} |")
    return "\n".join(rows)


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("``", "`").replace("|", "\\|")


_GENERATORS: Mapping[str, Callable[[], str]] = {
    "commands": command_reference,
    "errors": error_table,
    "settings": partial(settings_table, FleetSettings, "meaning"),
    "bounds": partial(settings_table, BoundSettings, "maximum of"),
}


if __name__ == "__main__":
    main()
