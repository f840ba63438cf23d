"""Log the start and the end of an outage once each, instead of on every retry."""

from __future__ import annotations

import logging


class OutageLog:
    """The outage of one operation.

    Args:
        log: the logger.
        what: what fails during the outage, as the beginning of a sentence.
    """

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._is_down = False

    def failed(self, why: object) -> None:
        """Log that the operation failed, unless that is logged already."""
        if not self._is_down:
            self._log.warning("%s: %s", self._what, why)
        self._is_down = True

    def recovered(self) -> None:
        """Log that the operation works again, if it had failed."""
        if self._is_down:
            self._log.warning("Recovered: %s", self._what)
        self._is_down = False
