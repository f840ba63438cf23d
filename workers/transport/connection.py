"""Connection: kombu's, which looks for a broker that is away every few seconds.

Celery's worker waits two seconds longer after each try, up to half a minute, so that after an outage of a few minutes
it would stand idle for as long as that once the broker is back.
"""

from __future__ import annotations

from typing import Any

from celery.app.amqp import AMQP
from kombu.connection import Connection as KombuConnection

from snakepit_bridge.messages import HIDDEN

_PAUSES_S = {"interval_start": 0.5, "interval_step": 0.5, "interval_max": 3.0}


class Connection(KombuConnection):
    """A connection of the fleet's app to its broker."""

    def ensure_connection(self, *args: Any, **kwargs: Any) -> Any:
        """Returns it once it is connected; see kombu. Between two tries it waits three seconds at most."""
        return super().ensure_connection(*args, **{**_PAUSES_S, **kwargs})


class FleetAMQP(AMQP):
    """What Celery makes the app's connections and messages with."""

    Connection = Connection

    def as_task_v2(self, *args: Any, **options: Any) -> Any:
        """Return a message whose headers don't show its arguments: a retry's, or the next step's of a chain."""
        return super().as_task_v2(*args, **{**options, "argsrepr": HIDDEN, "kwargsrepr": HIDDEN})
