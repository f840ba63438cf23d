"""Inputs of a batch as single predictions: after a worker died with the batch, and for another try."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from celery import Celery

from snakepit_bridge.messages import LM_TRIES, PREDICT, REPLY_CHANNEL, SENT_AT
from tasks.batch import Input
from tasks.prediction import Delivery


class Singles:
    """Sends inputs of one batch as messages of their own, under their own task ids.

    Args:
        app: the app to send with.
        program: reference of the batch's program.
        said: the keywords that all of its inputs have in common.
        delivery: how the batch came, whose queue, priority and reply channel stay theirs.
    """

    def __init__(self, app: Celery, program: str, said: Mapping[str, Any], delivery: Delivery) -> None:
        self._app = app
        self._program = program
        self._said = dict(said)
        self._delivery = delivery

    def send(self, inputs: Sequence[Input], *, countdown: float = 0.0, retries: int = 0, tries: int = 0) -> None:
        """Sends a message for each of the inputs; blocks.

        Args:
            inputs: what to send.
            countdown: seconds after which they are due.
            retries: how often they were delivered already.
            tries: tries of an LM call that were used up.
        """
        amqp = self._app.amqp
        with self._app.producer_or_acquire() as producer:
            for one in inputs:
                message = amqp.create_task_message(
                    one.task_id,
                    PREDICT,
                    [one.asked, self._program],
                    self._said,
                    countdown=countdown or None,
                    retries=retries,
                )
                amqp.send_task_message(
                    producer,
                    PREDICT,
                    message,
                    queue=self._delivery.queue or None,
                    priority=self._delivery.priority,
                    headers={
                        SENT_AT: self._delivery.sent_at or time.time(),
                        REPLY_CHANNEL: self._delivery.replies,
                        LM_TRIES: tries,
                    },
                )
