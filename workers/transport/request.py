"""Request: tells the transport when a task's process died, which Celery hands back like any other message.

Without it, a task that kills its process is run again for ever. It also decodes each message once, where Celery does it
for itself and again for the pool.
"""

from __future__ import annotations

from typing import Any

from celery import Task
from celery.exceptions import WorkerLostError
from celery.worker.request import Request as CeleryRequest


class Request(CeleryRequest):
    """Celery's request, which notes what the process of its task died of."""

    @property
    def body(self) -> Any:
        """The message's arguments as they were decoded, for the pool to hand to the tracer as they are."""
        return self._payload

    @property
    def content_type(self) -> None:
        """None, which tells the tracer that there is nothing to decode."""
        return

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Ends the request after an error; see Celery."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        lost = getattr(self.message.channel, "lost", None)
        if lost is not None and isinstance(error, WorkerLostError | SystemExit):
            lost[self.message.delivery_tag] = f"the process that ran it died: {error}"
        return super().on_failure(exc_info, send_failed_event, return_ok)


class FleetTask(Task):
    """The base of every task of the fleet."""

    abstract = True
    Request = f"{__name__}:Request"
