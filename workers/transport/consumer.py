"""Consumer: Celery's, which gives up what it can't decode, and outlives a lack of open files and a Redis that refuses.

Celery's own acknowledges the first, and ends the worker at the others: a Redis that is full or read-only for a moment
answers the declaration of a queue with an error that is none of the connection's.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from celery.exceptions import WorkerTerminate
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from snakepit_bridge.loop import home
from snakepit_bridge.open_files import OPEN_FILES, lacks_files
from snakepit_bridge.stores.outages import is_outage

logger = logging.getLogger(__name__)

# Before the broker is connected to again.
_AGAIN_S = 0.5


class FleetConsumer(Consumer):
    """The consumer of the fleet's workers."""

    def start(self) -> None:
        """Consume until the worker stops; where no file is left or the broker refuses, connect again after a moment."""
        while True:
            try:
                return super().start()
            except (Exception, WorkerTerminate) as exc:
                if not (lacks_files(exc) or is_outage(exc)):
                    raise
                self._begin_anew(exc)

    def _begin_anew(self, exc: BaseException) -> None:
        """Do what Celery does after any other loss of the connection."""
        if lacks_files(exc):
            home().call_soon_threadsafe(OPEN_FILES.lack, exc)
        if self.connection:
            self.on_connection_error_after_connected(exc)
        time.sleep(_AGAIN_S)
        maybe_shutdown()
        self.on_close()
        self._cancel_connection_timer_entries()
        self.blueprint.restart(self)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Reject a message whose body can't be decoded, so that its predictions end and it can be looked at."""
        logger.error("A message can't be decoded and is given up: %s", type(exc).__name__)
        message.reject_log_error(logger, self.connection_errors)
