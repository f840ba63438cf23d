"""Connection: kombu's, which looks for a broker that is away every few seconds.

Celery's worker waits two seconds longer after each try, up to half a minute, so that after an outage of a few minutes
it would stand idle for as long as that once the broker is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from celery.app.amqp import AMQP
from kombu.connection import Connection as KombuConnection

from snakepit_bridge.client.rabbitmq import CONFIRM_WITHIN_S, is_rabbitmq
from snakepit_bridge.process.home_loop import can_switch_out, run_blocking
from snakepit_bridge.protocol.messages import HIDDEN

_RETRY_INTERVALS_S = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 3.0}


class Connection(KombuConnection):
    """A connection of the fleet's app to its broker."""

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Returns it once it is connected; see kombu. Between two tries it waits three seconds at most."""
        return super().ensure_connection(*args, **{**_RETRY_INTERVALS_S, **kwargs})


class FleetAMQP(AMQP):
    """What Celery makes the app's connections and messages with."""

    Connection = Connection

    def _create_task_sender(self) -> Callable[..., Any]:
        """Return what sends a task's message: a retry's, or the next step's of a chain.

        RabbitMQ has to confirm each. What waits for that is never the loop, and it isn't for ever.
        """
        send = super()._create_task_sender()
        if not is_rabbitmq(str(cast(Any, self.app).conf.broker_url or "")):
            return send
        bounded = partial(send, confirm_timeout=CONFIRM_WITHIN_S)

        def send_off_the_loop(*args: Any, **options: Any) -> Any:
            if can_switch_out():
                return run_blocking(asyncio.to_thread(bounded, *args, **options))
            return bounded(*args, **options)

        return send_off_the_loop

    def as_task_v2(self, *args: Any, **options: Any) -> Any:
        """Return a message whose headers don't show its arguments: a retry's, or the next step's of a chain."""
        return super().as_task_v2(*args, **{**options, "argsrepr": HIDDEN, "kwargsrepr": HIDDEN})
