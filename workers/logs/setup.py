"""Set up the logs of the fleet's processes as the settings say."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery
from celery.signals import after_setup_logger, after_setup_task_logger
from celery.utils.log import get_multiprocessing_logger

from config.settings import FleetSettings
from snakepit_bridge.redaction import redact_patterns_in_logs
from snakepit_bridge.telemetry import TELEMETRY
from workers.logs.formatters import CONTEXT_FIELDS, ConsoleFormatter, FieldSource, JsonFormatter

SERVICE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""The format of a refresher's and a gateway's log on the console."""


def trace_fields() -> Mapping[str, str]:
    """Return the fields of the span of the running code; none if it isn't traced."""
    ids = TELEMETRY.tracer.current_ids()
    return {} if ids is None else {"trace_id": ids[0], "span_id": ids[1]}


def set_up_process_logs(
    settings: FleetSettings, level: int | str, *, form: str = SERVICE_FORMAT, process: str | None = None
) -> None:
    """Log to stderr in a process that isn't Celery's, in place of what was set up before.

    Args:
        settings: the settings of the fleet.
        level: the lowest level that is logged.
        form: the format on the console.
        process: the name of the process in JSON; None for Python's.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(build_formatter(settings, trace_fields, form, process=process))
    logging.basicConfig(level=level, handlers=[handler], force=True)


def set_up_worker_logs(app: Celery, settings: FleetSettings, read_context: Callable[[], Mapping[str, str]]) -> None:
    """Have Celery's handlers log in the fleet's form, once Celery has made them.

    Args:
        app: the worker's app.
        settings: its settings.
        read_context: returns the fields of the running prediction.
    """

    def format_handlers(logger: logging.Logger, **_: Any) -> None:
        form = str(app.conf.worker_log_format)
        multiprocessing: Any = get_multiprocessing_logger()
        for handler in (*logger.handlers, *multiprocessing.handlers):
            use_color = bool(getattr(handler.formatter, "use_color", False))
            handler.setFormatter(build_formatter(settings, read_context, form, use_color=use_color))

    after_setup_logger.connect(format_handlers, weak=False, dispatch_uid=f"{__name__}.root")
    after_setup_task_logger.connect(format_handlers, weak=False, dispatch_uid=f"{__name__}.task")


def build_formatter(
    settings: FleetSettings,
    read_context: Callable[[], Mapping[str, str]],
    form: str,
    *,
    use_color: bool = False,
    process: str | None = None,
) -> logging.Formatter:
    """Return the formatter that the settings ask for, and mask what they name from now on."""
    words = settings.log_redactions
    redact_patterns_in_logs(word for word in words if word not in CONTEXT_FIELDS)
    source = FieldSource(read_context, frozenset(words) & frozenset(CONTEXT_FIELDS))
    if settings.log == "json":
        return JsonFormatter(source, process=process)
    return ConsoleFormatter(source, form, use_color=use_color)
