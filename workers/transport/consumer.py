"""Consumer: Celery's, which gives up what it can't decode instead of acknowledging it."""

from __future__ import annotations

import logging
from typing import Any

from celery.worker.consumer import Consumer

logger = logging.getLogger(__name__)


class FleetConsumer(Consumer):
    """The consumer of the fleet's workers."""

    def on_decode_error(self, message: Any, exc: Exception) -> None:
        """Reject a message whose body can't be decoded, so that its predictions end and it can be looked at."""
        logger.error("A message can't be decoded and is given up: %s", type(exc).__name__)
        message.reject_log_error(logger, self.connection_errors)
