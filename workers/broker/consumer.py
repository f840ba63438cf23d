"""Consumer: Celery's, which gives up what it can't decode, and outlives a lack of open files and a Redis that refuses.

Celery's own acknowledges the first, and ends the worker at the others: a Redis that is full or read-only for a moment
answers the declaration of a queue with an error that is none of the connection's. And with RabbitMQ, after a lost
connection, it waits for the broker in whichever thread a task ends, on the home loop too.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

from celery.exceptions import WorkerTerminate
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from snakepit_bridge.process.home_loop import home
from snakepit_bridge.process.open_files import OPEN_FILES, lacks_files
from snakepit_bridge.redis.outages import is_outage
from workers.rabbitmq_dead_letters import dead_letter_on_reject, mark_rejected, stores_dead_letters

logger = logging.getLogger(__name__)

# Before the broker is connected to again.
_RECONNECT_DELAY_S = 0.5


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
                self._reconnect(exc)

    def _reconnect(self, exc: BaseException) -> None:
        """Do what Celery does after any other loss of the connection."""
        if lacks_files(exc):
            home().call_soon_threadsafe(OPEN_FILES.lack, exc)
        if self.connection:
            self.on_connection_error_after_connected(exc)
        time.sleep(_RECONNECT_DELAY_S)
        maybe_shutdown()
        self.on_close()
        self._cancel_connection_timer_entries()
        self.blueprint.restart(self)

    def create_task_handler(self, *args: Any, **options: Any) -> Any:
        """Return what takes a message; one that is refused for good goes to the dead list on any broker."""
        handle = super().create_task_handler(*args, **options)
        if not stores_dead_letters(self.app):
            return handle

        def keep_and_handle(message: Any) -> Any:
            dead_letter_on_reject(self.app, message, self._schedule_settle)
            return handle(message)

        return keep_and_handle

    def _schedule_settle(self, settle: Callable[[], Any]) -> None:
        def settle_here() -> None:
            try:
                settle()
            except self.connection_errors as exc:
                # It comes again by the next connection, and goes the same way.
                logger.warning("A message that was given up can't be acknowledged: %s", exc)

        self.call_soon(settle_here)

    def _restore_prefetch_count_after_connection_restart(self, p: Any, *args: Any) -> None:
        """Take up more work again as tasks end; only the worker's main thread may wait for the broker's answer."""
        if not self._maximum_prefetch_restored:
            self.call_soon(super()._restore_prefetch_count_after_connection_restart, p, *args)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Reject a message whose body can't be decoded, so that its predictions end and it can be looked at."""
        logger.error("A message can't be decoded and is given up: %s", type(exc).__name__)
        mark_rejected(message, "unreadable", f"{type(exc).__name__}: {exc}")
        message.reject_log_error(logger, self.connection_errors)
