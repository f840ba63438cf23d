"""The Celery app of a fleet: one of its own, or a user's app on which the fleet is installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Any, cast

from celery import Celery, Task
from kombu.serialization import register
from kombu.utils.json import dumps

from config.celery import celery_config
from config.settings import FleetSettings
from snakepit_bridge.client.broker import celery_tls, check_broker_url, sentinel_options
from snakepit_bridge.protocol.json_values import read_message
from snakepit_bridge.redaction import redact_logs
from snakepit_bridge.redis.connection import RedisConnection
from tasks import TASK_MODULES
from tasks.prediction_log import PREDICTION_LOG
from tasks.runtime import Runtime
from tasks.subject import log_fields
from workers import (
    PACKAGE,
    lifecycle,  # noqa: F401  # pyright: ignore[reportUnusedImport]
)
from workers import task_ends as endings
from workers.broker.transport import TRANSPORT, register_transport

# Loading the lifecycle connects the signals of a worker's start.
from workers.environment import read_settings
from workers.logs.setup import set_up_worker_logs
from workers.pool.coroutines import key_current_task_by_owner, key_requests_by_owner, wrap_coroutine_function
from workers.pool.tracebacks import patch_celery_clearing
from workers.runtime import RuntimeSlot

_REDIS = ("redis://", "rediss://")
_SOCKET = "redis+socket://"
_CELERYS_QUEUE = "celery"

# kombu's decoder rejects a whole message if an object in it merely looks like a typed value.
register("json", dumps, read_message, content_type="application/json", content_encoding="utf-8")

# A URL with a + names its transport, which takes precedence in kombu.
register_transport()
_SENTINEL_TRANSPORT = f"{PACKAGE}.broker.sentinel:SentinelTransport"


class FleetApp(Celery):
    """Celery with the runtime that the fleet's tasks run on.

    Further tasks may be added to it as to any Celery app. They run in the fleet's queue and under its configuration:
    acknowledged once they are done, and delivered again if their worker dies. On an app that exists, with a
    configuration of its own, ``install`` puts the fleet beside its tasks.
    """

    task_cls = f"{PACKAGE}.broker.request:FleetTask"
    amqp_cls = f"{PACKAGE}.broker.connection:FleetAMQP"

    settings: FleetSettings
    slot: RuntimeSlot

    def __init__(self, settings: FleetSettings | None = None) -> None:
        """Create an app.

        Args:
            settings: the fleet's; those of the environment if not given.
        """
        super().__init__("dspex-fleet")
        # Every field has a default, which pydantic's declared signature doesn't show.
        settings = settings or read_settings(FleetSettings)
        self.conf.update(celery_config(settings))
        self.conf.task_routes = (self._route_foreign,)
        self.equip(settings)

    @property
    def runtime(self) -> Runtime:
        """This process's runtime, built on first use."""
        return self.slot.runtime or self.slot.get()

    def equip(self, settings: FleetSettings) -> None:
        """Take the fleet's broker, transport, result backend and tasks, before the app is used.

        Args:
            settings: the fleet's.
        """
        redact_logs()
        set_up_worker_logs(self, settings, log_fields)
        PREDICTION_LOG.max_per_s = settings.log_predictions_per_s
        self.settings = settings
        self.slot = RuntimeSlot(settings)
        self._set_servers(settings)
        self.loader.override_backends = dict.fromkeys(("redis", "rediss"), f"{PACKAGE}.result_backend:CommitBackend")
        self.conf.imports = (*(self.conf.imports or ()), *TASK_MODULES, f"{PACKAGE}.inspection")
        self.conf.worker_consumer = f"{PACKAGE}.broker.consumer:FleetConsumer"
        cast(Any, self).steps["consumer"].add(f"{PACKAGE}.broker.consumer:ReadinessStep")
        key_current_task_by_owner()
        patch_celery_clearing()
        endings.connect_signals()

    def _set_servers(self, settings: FleetSettings) -> None:
        """Set the broker and the result backend, each with its TLS options."""
        RedisConnection(settings.redis)  # which refuses what is no URL of a Redis; kombu would look for a transport
        broker, broker_tls = celery_tls(check_broker_url(settings.broker) if settings.broker_url else settings.broker)
        backend, backend_tls = celery_tls(settings.redis)
        broker_options, backend_options = sentinel_options(settings.broker), sentinel_options(settings.redis)
        if broker.startswith(_REDIS):
            self.conf.broker_transport = _SENTINEL_TRANSPORT if broker_options else TRANSPORT
        elif broker.startswith(_SOCKET):
            broker = broker.replace("redis+", "dspex+", 1)
        self.conf.update(broker_url=broker, broker_use_ssl=broker_tls)
        self.conf.update(result_backend=backend, redis_backend_use_ssl=backend_tls)
        timeout_s = settings.redis_timeout_s
        if broker_options:
            # A primary that hangs while another is promoted must not be waited for.
            bounds = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, "stall": timeout_s}
            broker_options = {**broker_options, **bounds}
        if backend_options:
            self.conf.redis_socket_timeout = self.conf.redis_socket_connect_timeout = timeout_s
        self.conf.broker_transport_options = {**(self.conf.broker_transport_options or {}), **broker_options}
        self.conf.result_backend_transport_options = {
            **(self.conf.result_backend_transport_options or {}), **backend_options,
        }  # fmt: skip
        # After a lost connection Celery reduces the prefetch count, as it can't tell which tasks still run.
        # Our transport counts them.
        self.conf.worker_enable_prefetch_count_reduction = not broker.startswith((*_REDIS, "dspex+"))

    def uses_utc_timezone(self) -> bool:
        """Check whether times are in UTC; Celery asks for each message, and compares time zones to find out."""
        return self._uses_utc

    @cached_property
    def _uses_utc(self) -> bool:
        return bool(super().uses_utc_timezone())

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
