"""What a process says of an outage: once that something can't be done, and once that it can be done again.

A loop that tries again several times a second would else fill the log with one line over and over.
"""

from __future__ import annotations

import logging


class OutageLog:
    """One thing that may be impossible for a while.

    Args:
        log: where it is said.
        what: what can't be done then, as the beginning of a sentence.
    """

    def __init__(self, log: logging.Logger, what: str) -> None:
        self._log = log
        self._what = what
        self._is_down = False

    def failed(self, why: object) -> None:
        """Says that it can't be done, unless that was said already."""
        if not self._is_down:
            self._log.warning("%s: %s", self._what, why)
        self._is_down = True

    def recovered(self) -> None:
        """Says that it is done again, if it couldn't be."""
        if self._is_down:
            self._log.warning("Over: %s", self._what)
        self._is_down = False
