"""Send inputs of a batch as single predictions: after a worker crashed with the batch, and for retries."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from typing import Any

from celery import Celery

from snakepit_bridge.exceptions import StoreUnavailableError
from snakepit_bridge.protocol.messages import (
    HIDDEN,
    LM_FAILING_S,
    LM_TRIES,
    PREDICT,
    PROGRAM,
    REPLY_CHANNEL,
    SENT_AGAIN,
    SENT_AT,
)
from snakepit_bridge.redis.outages import is_outage, retry_through_outages
from tasks.batch import Input
from tasks.requests import Delivery
from tasks.spending import spending_headers
from tasks.telemetry import replacement_headers

# Attempts for one message; send_all() retries for as long as an outage may take.
_RETRY = {"max_retries": 1, "interval_start": 0.1, "interval_step": 0.1, "interval_max": 0.2}

_log = logging.getLogger(__name__)


class InputRequeuer:
    """Sends inputs of one batch as messages of their own, under their own task ids.

    Args:
        app: the app to send with.
        program: reference of the batch's program.
        keywords: the keywords that all of its inputs share.
        delivery: how the batch was delivered; its queue, priority, durability and reply channel are kept.
        broker: the broker's name in errors.
    """

    def __init__(
        self, app: Celery, program: str, keywords: Mapping[str, Any], delivery: Delivery, *, broker: str = "the broker"
    ) -> None:
        self._app = app
        self._program = program
        self._keywords = dict(keywords)
        self._delivery = delivery
        self._broker = broker

    def send(
        self,
        inputs: Sequence[Input],
        *,
        countdown: float = 0.0,
        retries: int = 0,
        tries: int = 0,
        failing_s: float = 0.0,
    ) -> list[Input]:
        """Send a message for each input; blocks. Return the inputs that the broker didn't accept.

        Args:
            inputs: the inputs to send.
            countdown: seconds until the messages are due.
            retries: how often they were delivered before.
            tries: attempts at an LM call so far.
            failing_s: seconds for which it has been retried.
        """
        left = list(inputs)
        try:
            with self._app.producer_or_acquire() as producer:
                while left:
                    self._send(producer, left[0], countdown, retries, {LM_TRIES: tries, LM_FAILING_S: failing_s})
                    left.pop(0)
        except Exception as exc:
            if not is_outage(exc):
                raise
            _log.warning("Can't send %d inputs of a batch yet: %s", len(left), exc)
        return left

    async def send_all(
        self,
        inputs: Sequence[Input],
        *,
        countdown: float = 0.0,
        retries: int = 0,
        tries: int = 0,
        failing_s: float = 0.0,
        deadline: float | None = None,
    ) -> None:
        """Send a message for each input from the event loop, retrying through outages of the broker.

        Raises:
            StoreUnavailableError: the outage outlasted the deadline or the retries.
        """
        left = list(inputs)

        async def send() -> None:
            left[:] = await asyncio.to_thread(
                self.send, left, countdown=countdown, retries=retries, tries=tries, failing_s=failing_s
            )
            if left:
                raise StoreUnavailableError(self._broker, f"it doesn't accept {len(left)} inputs of a batch")

        await retry_through_outages(send, deadline=deadline)

    def _send(self, producer: Any, item: Input, countdown: float, retries: int, lm_tries: Mapping[str, float]) -> None:
        amqp = self._app.amqp
        message = amqp.create_task_message(
            item.task_id,
            PREDICT,
            [item.values, self._program],
            self._keywords,
            countdown=countdown or None,
            retries=retries,
            argsrepr=HIDDEN,
            kwargsrepr=HIDDEN,
        )
        amqp.send_task_message(
            producer,
            PREDICT,
            message,
            queue=self._delivery.queue or None,
            priority=self._delivery.priority,
            headers={
                SENT_AT: self._delivery.sent_at or time.time(),
                REPLY_CHANNEL: self._delivery.reply_channel,
                **lm_tries,
                **spending_headers(item.task_id),
                PROGRAM: self._program,
                SENT_AGAIN: True,
                **self._delivery.durability.headers(),
                **replacement_headers(),
            },
            retry=True,
            retry_policy=_RETRY,
        )
