"""The two forms of a log line. Both have the fields of the prediction, or the request, whose code logs it."""

from __future__ import annotations

import json
import logging
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, cast

from snakepit_bridge.process.own_packages import OWN_PACKAGES
from snakepit_bridge.redaction import MASK, redact_for_logs, redact_patterns_in_logs

CONTEXT_FIELDS = ("task_id", "session", "token", "program", "trace_id", "span_id")
"""Fields of each line, as far as they are known where it is logged."""

END_FIELDS = ("outcome", "error_type", "duration_s", "latency_s", "input_tokens", "output_tokens", "cost_usd")
"""Further fields of the line that tells how a prediction ended."""

_PLAIN = re.compile(r"[\w.@:/+*-]+")


@dataclass(frozen=True, slots=True)
class FieldSource:
    """Where the fields of lines come from.

    Attributes:
        read_context: returns the context fields of the running code.
        masked: names of fields whose values are masked.
    """

    read_context: Callable[[], Mapping[str, str]]
    masked: frozenset[str] = frozenset()

    def fields_of(self, record: logging.LogRecord) -> dict[str, Any]:
        """Return the fields of a record; those that have no value are left out."""
        fields: dict[str, Any] = {**self.read_context()}
        # The fleet's own loggers set such fields by themselves; others' extras may hold content.
        if record.name.partition(".")[0] in OWN_PACKAGES:
            given = record.__dict__
            fields |= {name: given[name] for name in (*CONTEXT_FIELDS, *END_FIELDS) if given.get(name) is not None}
        elif not fields and isinstance(data := getattr(record, "data", None), Mapping):
            # Celery's main process names a message's task there.
            fields["task_id"] = str(cast("Mapping[str, Any]", data).get("id") or "")
        return {name: self._show(name, value) for name, value in fields.items() if value != ""}

    def _show(self, name: str, value: Any) -> Any:
        if name in self.masked:
            return MASK
        return redact_for_logs(value) if isinstance(value, str) else value


class ConsoleFormatter(logging.Formatter):
    """Text for people, with the context fields behind the message.

    Args:
        source: of the fields.
        form: the format of the line.
    """

    def __init__(self, source: FieldSource, form: str) -> None:
        super().__init__(form)
        self._source = source

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (logging's name)
        fields = self._source.fields_of(record)
        shown = [f"{name}={_quote(fields[name])}" for name in CONTEXT_FIELDS if name in fields]
        message = super().formatMessage(record)
        return f"{message} [{' '.join(shown)}]" if shown else message


class JsonFormatter(logging.Formatter):
    """A JSON object per line.

    Args:
        source: of the fields.
        process: the name of the process; None for the record's.
    """

    def __init__(self, source: FieldSource, *, process: str | None = None) -> None:
        super().__init__()
        self._source = source
        self._process = process

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
            "process": self._process or record.processName,
            "pid": record.process,
            **self._source.fields_of(record),
        }
        if record.exc_info and not record.exc_text:
            record.exc_text = redact_for_logs(self.formatException(record.exc_info))
        if record.exc_text:
            line["exception"] = record.exc_text
        if record.stack_info:
            line["stack"] = record.stack_info
        return json.dumps(line, default=str)


def build_formatter(
    log: str, redactions: Sequence[str], read_context: Callable[[], Mapping[str, str]], form: str, *,
    process: str | None = None,
) -> logging.Formatter:  # fmt: skip
    """Return a formatter, and mask what is to be redacted from now on.

    Args:
        log: ``json``, or ``console``.
        redactions: regular expressions, and names of context fields.
        read_context: returns the context fields of the running code.
        form: the format of a line on the console.
        process: the name of the process in JSON; None for Python's.
    """
    source = build_source(redactions, read_context)
    return JsonFormatter(source, process=process) if log == "json" else ConsoleFormatter(source, form)


def build_source(redactions: Sequence[str], read_context: Callable[[], Mapping[str, str]]) -> FieldSource:
    """Return where fields come from, and mask what is to be redacted from now on."""
    redact_patterns_in_logs(word for word in redactions if word not in CONTEXT_FIELDS)
    return FieldSource(read_context, frozenset(redactions) & frozenset(CONTEXT_FIELDS))


def log_to_stderr(formatter: logging.Formatter, level: int | str) -> None:
    """Log to stderr alone, in place of what was set up before."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    logging.basicConfig(level=level, handlers=[handler], force=True)


def _quote(value: Any) -> str:
    """Return a value for a line of text; names that clients choose may hold anything, even a line break."""
    text = str(value)
    return text if _PLAIN.fullmatch(text) else json.dumps(text)
