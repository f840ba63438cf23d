"""Set up the logs of the fleet's processes as the settings say."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Any

from celery import Celery
from celery.signals import after_setup_logger, after_setup_task_logger
from celery.utils.log import ColorFormatter, get_multiprocessing_logger

from config.settings import FleetSettings
from snakepit_bridge.telemetry import TELEMETRY
from workers.logs.formatters import ConsoleFormatter, build_formatter, build_source, log_to_stderr

SERVICE_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
"""The format of a refresher's and a gateway's log on the console."""


class ColoredFormatter(ConsoleFormatter, ColorFormatter):
    """Text for people, with the level shown by a color."""


def trace_fields() -> Mapping[str, str]:
    """Return the fields of the span of the running code; none if it isn't traced."""
    ids = TELEMETRY.tracer.current_ids()
    return {} if ids is None else {"trace_id": ids[0], "span_id": ids[1]}


def set_up_process_logs(settings: FleetSettings, level: int | str) -> None:
    """Log to stderr in a process that isn't Celery's, in place of what was set up before.

    Args:
        settings: the settings of the fleet.
        level: the lowest level that is logged.
    """
    log_to_stderr(build_formatter(settings.log, settings.log_redactions, trace_fields, SERVICE_FORMAT), level)


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
            if settings.log != "json" and getattr(handler.formatter, "use_color", False):
                handler.setFormatter(ColoredFormatter(build_source(settings.log_redactions, read_context), form))
            else:
                handler.setFormatter(build_formatter(settings.log, settings.log_redactions, read_context, form))

    after_setup_logger.connect(format_handlers, weak=False, dispatch_uid=f"{__name__}.root")
    after_setup_task_logger.connect(format_handlers, weak=False, dispatch_uid=f"{__name__}.task")
