"""The watchdog's logs: in the form of the worker's, without what names the running prediction, since it has none."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from snakepit_bridge.redaction import redact_logs
from workers.logs.formatters import build_formatter, log_to_stderr

_FORM = "[%(asctime)s: %(levelname)s/Watchdog] %(message)s"


def log_as_watchdog(log: str, redactions: Sequence[str]) -> None:
    """Log warnings and errors to stderr.

    Args:
        log: the form of log lines.
        redactions: what is masked in them.
    """
    redact_logs()
    log_to_stderr(build_formatter(log, redactions, dict[str, str], _FORM, process="Watchdog"), logging.WARNING)
