"""kombu's connection with a short reconnect backoff.

Celery's worker waits two seconds longer after each attempt, up to half a minute, and so would idle for that long after
the broker is back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Any, cast

from celery.app.amqp import AMQP
from kombu.connection import Connection as KombuConnection

from snakepit_bridge.client.rabbitmq import CONFIRM_WITHIN_S, is_rabbitmq
from snakepit_bridge.client.signing import sign_sent
from snakepit_bridge.process.home_loop import can_switch_out, run_blocking
from snakepit_bridge.protocol.messages import HIDDEN
from workers.encryption import load_signer

_RETRY_INTERVALS_S = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 3.0}


class Connection(KombuConnection):
    """A connection of the fleet's app to its broker."""

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Connect with retries, at most three seconds apart, and return the connection."""
        return super().ensure_connection(*args, **{**_RETRY_INTERVALS_S, **kwargs})


class FleetAMQP(AMQP):
    """Creates the app's connections and messages."""

    Connection = Connection

    def _create_task_sender(self) -> Callable[..., Any]:
        """Return the function that publishes a retry or the next step of a chain.

        RabbitMQ has to confirm each message. The wait is bounded and never blocks the event loop.
        """
        send, signer = super()._create_task_sender(), load_signer(cast(Any, self.app).settings)
        if signer is not None:
            send = sign_sent(send, signer)
        if not is_rabbitmq(str(cast(Any, self.app).conf.broker_url or "")):
            return send
        bounded = partial(send, confirm_timeout=CONFIRM_WITHIN_S)

        def send_off_the_loop(*args: Any, **options: Any) -> Any:
            if can_switch_out():
                return run_blocking(asyncio.to_thread(bounded, *args, **options))
            return bounded(*args, **options)

        return send_off_the_loop

    def as_task_v2(self, *args: Any, **options: Any) -> Any:
        """Return a message of a retry or the next step of a chain, with its arguments hidden from the headers."""
        return super().as_task_v2(*args, **{**options, "argsrepr": HIDDEN, "kwargsrepr": HIDDEN})
