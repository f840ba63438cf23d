"""Celery's consumer, which dead-letters undecodable messages and survives EMFILE and error replies of Redis.

Celery's own acknowledges the former and ends the worker on the latter: a Redis that is briefly full or read-only
replies to a queue declaration with an error that isn't a connection error. And after a lost connection to RabbitMQ,
Celery's waits for the broker in whichever thread a task ends, even on the home loop.
"""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from typing import Any, cast

from celery.bootsteps import StartStopStep
from celery.exceptions import CPendingDeprecationWarning, WorkerTerminate
from celery.worker.consumer import Consumer
from celery.worker.state import maybe_shutdown

from snakepit_bridge.process.home_loop import get_home_loop
from snakepit_bridge.process.open_files import OPEN_FILES, is_out_of_files
from snakepit_bridge.redis.outages import is_outage
from tasks.newer_messages import NEWER_RELEASE
from workers.encryption import load_signer
from workers.message_checks import check_signatures
from workers.rabbitmq_dead_letters import dead_letter_on_reject, mark_rejected, stores_dead_letters

logger = logging.getLogger(__name__)

# Pause before reconnecting to the broker.
_RECONNECT_DELAY_S = 0.5


class ReadinessStep(StartStopStep):
    """A step of the consumer that starts nothing, and adds to a worker's statistics why it isn't ready."""

    def info(self, obj: Any) -> Any:
        """Return what Celery's ``inspect stats`` shows of it."""
        return {"newer_release": NEWER_RELEASE.problem}


class FleetConsumer(Consumer):
    """The consumer of the fleet's workers."""

    def on_connection_error_after_connected(self, exc: BaseException) -> None:
        """Log the loss of the connection, without Celery's advice on a setting that the fleet has decided on."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", CPendingDeprecationWarning)
            super().on_connection_error_after_connected(exc)

    def start(self) -> None:
        """Consume until the worker stops; reconnect after a lack of file descriptors or an outage of the broker."""
        while True:
            try:
                return super().start()
            except (Exception, WorkerTerminate) as exc:
                if not (is_out_of_files(exc) or is_outage(exc)):
                    raise
                self._reconnect(exc)

    def _reconnect(self, exc: BaseException) -> None:
        """Restart as Celery does after a lost connection."""
        if is_out_of_files(exc):
            get_home_loop().call_soon_threadsafe(OPEN_FILES.note_shortage, exc)
        if self.connection:
            self.on_connection_error_after_connected(exc)
        time.sleep(_RECONNECT_DELAY_S)
        maybe_shutdown()
        self.on_close()
        self._cancel_connection_timer_entries()
        self.blueprint.restart(self)

    def create_task_handler(self, *args: Any, **options: Any) -> Any:
        """Return the message handler; rejected messages go to the dead-letter list on any broker."""
        handle = check_signatures(
            super().create_task_handler(*args, **options), load_signer(cast(Any, self.app).settings)
        )
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
                # The next connection redelivers it, and it takes the same path.
                logger.warning("Acknowledging a dead-lettered message failed, connection lost: %s", exc)

        self.call_soon(settle_here)

    def _restore_prefetch_count_after_connection_restart(self, p: Any, *args: Any) -> None:
        """Restore the prefetch count as tasks end, in the worker's main thread, which alone may wait for the broker."""
        if not self._maximum_prefetch_restored:
            self.call_soon(super()._restore_prefetch_count_after_connection_restart, p, *args)

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Reject a message whose body can't be decoded: its predictions end, and it goes to the dead-letter list."""
        logger.error("Decoding a message failed, moved to the dead-letter list: %s", type(exc).__name__)
        mark_rejected(message, "unreadable", f"{type(exc).__name__}: {exc}")
        message.reject_log_error(logger, self.connection_errors)
