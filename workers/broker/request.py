"""Celery's request, which stores an end for the predictions of a message whose task can't.

It tells the transport when a task's process died; otherwise a task that kills its process would be redelivered for
ever. It also decodes each message once, where Celery does so for itself and again for the pool.
"""

from __future__ import annotations

import time
from typing import Any, cast

from celery import Task, signals
from celery.exceptions import Reject, WorkerLostError
from celery.states import REVOKED
from celery.worker import state
from celery.worker.request import Request as CeleryRequest

from snakepit_bridge.exceptions import DeadlineExceededError, PredictionCancelledError, PredictionFailedError
from snakepit_bridge.protocol.messages import HIDDEN
from tasks.newer_messages import NEWER_RELEASE, LeftToNewerWorkerError
from workers.content_privacy import exception_name, format_arguments
from workers.rabbitmq_dead_letters import GivenUp, mark_rejected
from workers.task_ends import END_COMMITTER, GUARDED_TASKS, end_callbacks, program_reference, time_limit_error
from workers.task_guard import Guard


class FleetRequest(CeleryRequest):
    """Celery's request, which records why its task's process died and ends its predictions."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        # The sender's representations would go to logs, events and `inspect`.
        self._log_content = bool(cast(Any, self._app).settings.log_content)
        self._argsrepr, self._kwargsrepr = (
            format_arguments(self._args, self._log_content),
            format_arguments(self._kwargs, self._log_content),
        )
        self._request_dict |= {"argsrepr": self._argsrepr, "kwargsrepr": self._kwargsrepr}

    @property
    def body(self) -> Any:
        """The message's decoded arguments, which the pool passes to the tracer as they are."""
        return self._payload

    @property
    def content_type(self) -> None:
        """None, so that the tracer decodes nothing."""
        return

    def info(self, safe: bool = False) -> dict[str, Any]:
        """Return the request's description for remote control, without its arguments."""
        return super().info(safe=True)

    def send_event(self, type: str, **fields: Any) -> None:
        """Send an event without the task's arguments and result."""
        if not self._log_content:
            fields |= {name: HIDDEN for name in ("traceback", "result") if name in fields}
            fields |= {name: exception_name(fields[name]) for name in ("exception",) if name in fields}
        super().send_event(type, **fields)

    def on_failure(self, exc_info: Any, send_failed_event: bool = True, return_ok: bool = False) -> Any:
        """Handle an error of the task as Celery does, and record a process that died."""
        error = getattr(exc_info.exception, "exc", exc_info.exception)
        if isinstance(error, GivenUp):
            state.task_ready(self)
            deaths = error.deaths
            mark_rejected(self.message, "lost", f"the worker that ran it died, {deaths} times", deaths)
            return self.reject(requeue=False)
        if isinstance(error, Reject) and not error.requeue and self._type in GUARDED_TASKS:
            # Celery would fail the prediction; the dead-letter list does, and says why.
            state.task_ready(self)
            mark_rejected(self.message, "rejected", str(error.reason))
            return self.reject(requeue=False)
        if isinstance(error, LeftToNewerWorkerError):
            NEWER_RELEASE.note(str(error.reason))
        lost = getattr(self.message.channel, "lost", None)
        if lost is not None and isinstance(error, WorkerLostError | SystemExit):
            lost[self.message.delivery_tag] = f"the process that ran it died: {error}"
        return super().on_failure(exc_info, send_failed_event, return_ok)

    def on_timeout(self, soft: bool, timeout: float) -> None:
        """Handle a time limit; at the hard one, end the predictions."""
        if soft or self._type not in GUARDED_TASKS or state.should_terminate:
            super().on_timeout(soft, timeout)
            return
        program = program_reference(self._request_dict, self._args)
        state.task_ready(self)

        def error_of(_: str) -> PredictionFailedError:
            return time_limit_error(program, timeout)

        self._end_predictions(error_of)

    def _announce_revoked(self, reason: str, terminated: bool, signum: Any, expired: bool) -> None:
        if self._type not in GUARDED_TASKS:
            super()._announce_revoked(reason, terminated, signum, expired)
            return
        state.task_ready(self)
        self.send_event("task-revoked", terminated=terminated, signum=signum, expired=expired)
        self._already_revoked = True
        if expired:
            late_s = round(max(0.0, time.time() - cast(Any, self.expires).timestamp()), 3)

            def error_of(task_id: str) -> DeadlineExceededError:
                return DeadlineExceededError(task_id, late_s)

            self._end_predictions(error_of)
        else:
            self._end_predictions(PredictionCancelledError, REVOKED)
        signals.task_revoked.send(
            self.task, request=self._context, terminated=terminated, signum=signum, expired=expired
        )

    def _end_predictions(self, error_of: Any, state_name: str = "FAILURE") -> None:
        """Store an end for all predictions of the message, then acknowledge it."""

        def settle() -> None:
            end_callbacks(self._app, self._context, error_of(self.id), state_name)
            self.acknowledge()

        END_COMMITTER.commit(self._app, self._request_dict, error_of, state=state_name, then=settle)


class FleetTask(Task):
    """The base of every task of the fleet."""

    abstract = True
    Request = f"{__name__}:FleetRequest"
    _tracer: Any = None

    @property
    def __trace__(self) -> Any:
        """The tracer, which runs the task and stores its result."""
        return self._tracer

    @__trace__.setter
    def __trace__(self, tracer: Any) -> None:
        self._tracer = Guard(self, tracer) if tracer is not None and str(self.name) in GUARDED_TASKS else tracer
