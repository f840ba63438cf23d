"""The fleet's Celery app: ``celery -A workers.app worker`` runs it. Importing it connects to nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery import Celery, Task
from kombu.serialization import register
from kombu.transport import TRANSPORT_ALIASES
from kombu.utils.json import dumps

from config.celery import celery_config
from config.settings import FleetSettings
from snakepit_bridge.client.broker import celery_tls
from snakepit_bridge.protocol.json_values import read_message
from snakepit_bridge.redaction import redact_logs
from tasks.prediction_log import PREDICTION_LOG
from tasks.runtime import Runtime
from tasks.subject import log_fields
from workers import task_ends as endings
from workers.lifecycle import RuntimeSlot
from workers.logs.setup import set_up_worker_logs
from workers.pool.coroutines import wrap_coroutine_function
from workers.pool.task_context import key_current_task_by_owner, key_requests_by_owner
from workers.pool.tracebacks import patch_celery_clearing

_REDIS = ("redis://", "rediss://")
_SOCKET = "redis+socket://"
_CELERYS_QUEUE = "celery"

# kombu's decoder rejects a whole message if an object in it merely looks like a typed value.
register("json", dumps, read_message, content_type="application/json", content_encoding="utf-8")

# A URL with a + names its transport, which takes precedence in kombu.
TRANSPORT_ALIASES["dspex"] = _TRANSPORT = "workers.broker:Transport"


class FleetApp(Celery):
    """Celery with the runtime that the fleet's tasks run on."""

    def __init__(self, settings: FleetSettings) -> None:
        redact_logs()
        set_up_worker_logs(self, settings, log_fields)
        PREDICTION_LOG.max_per_s = settings.log_predictions_per_s
        super().__init__(
            "dspex-fleet",
            task_cls="workers.broker.request:FleetTask",
            amqp="workers.broker.connection:FleetAMQP",
        )
        self.settings = settings
        self.slot = RuntimeSlot(settings)
        self.conf.update(celery_config(settings))
        broker, broker_tls = celery_tls(settings.broker)
        backend, backend_tls = celery_tls(settings.redis)
        if broker.startswith(_REDIS):
            self.conf.broker_transport = _TRANSPORT
        elif broker.startswith(_SOCKET):
            broker = broker.replace("redis+", "dspex+", 1)
        self.conf.update(broker_url=broker, broker_use_ssl=broker_tls)
        self.conf.update(result_backend=backend, redis_backend_use_ssl=backend_tls)
        # After a lost connection Celery reduces the prefetch count, as it can't tell which tasks still run.
        # Our transport counts them.
        self.conf.worker_enable_prefetch_count_reduction = not broker.startswith((*_REDIS, "dspex+"))
        self.loader.override_backends = dict.fromkeys(("redis", "rediss"), "workers.result_backend:CommitBackend")
        self.conf.task_routes = (self._route_foreign,)
        self.conf.imports = ("tasks.predict", "tasks.predict_batch", "workers.inspection")
        self.conf.worker_consumer = "workers.broker.consumer:FleetConsumer"
        key_current_task_by_owner()
        patch_celery_clearing()
        endings.connect_signals()

    @property
    def runtime(self) -> Runtime:
        """This process's runtime, built on first use."""
        return self.slot.get()

    def _route_foreign(self, name: str, *_: Any, **__: Any) -> dict[str, str] | None:
        """Route tasks of a canvas that aren't the fleet's to Celery's default queue, unless they name another.

        In the fleet's queue, a worker would drop them as unknown.
        """
        return None if name in self.tasks else {"queue": _CELERYS_QUEUE}

    def _task_from_fun(self, fun: Callable[..., Any], *args: Any, **options: Any) -> Task:
        """Create a task; a coroutine function becomes one that runs on the home loop."""
        task = super()._task_from_fun(wrap_coroutine_function(fun), *args, **options)
        key_requests_by_owner(task)
        return task


# Every field has a default, which pydantic's declared signature doesn't show.
app = FleetApp(FleetSettings.model_validate({}))
