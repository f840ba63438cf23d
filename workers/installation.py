"""Put the fleet on a Celery app that exists, beside the tasks, the queues and the configuration that it has."""

from __future__ import annotations

from typing import Any, cast

from celery import Celery
from celery.utils.imports import symbol_by_name
from kombu.entity import Exchange, Queue
from pydantic import SecretStr

from config.celery import celery_config
from config.settings import FleetSettings
from snakepit_bridge.client.broker import add_tls_options, get_broker_url
from snakepit_bridge.client.celery_app import get_backend_url
from snakepit_bridge.delivery.keys import REDIS_SCHEMES
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.protocol.messages import FLEET_TASKS
from snakepit_bridge.redis.urls import mask_url
from workers.environment import read_settings
from workers.fleet_app import FleetApp
from workers.pools import ASYNCIO_POOL, Pool

# What an app decides for its own tasks; the fleet's bring their own.
_OF_THE_APP = frozenset({
    "broker_url", "result_backend", "task_default_queue", "task_default_priority", "task_acks_late",
    "task_reject_on_worker_lost", "task_track_started", "worker_hijack_root_logger",
})  # fmt: skip


def install(app: Celery, settings: FleetSettings | None = None, *, pool: str = "asyncio") -> FleetApp:
    """Have the workers of an app run predictions too, on the fleet's pool and transport.

    Call it once the app is configured and before it is used. The app's tasks keep their queues, routes and options.
    Coroutine functions become tasks that run on the worker's event loop. Workers consume from the app's queues and from
    the fleet's; ``-Q`` chooses among them.

    Args:
        app: the app. Its result backend, if it has one, is the fleet's Redis, and its broker the fleet's broker.
        settings: the fleet's; by default those of the environment.
        pool: the pool of workers that name none on their command line: ``asyncio``, ``threads``, ``prefork`` or
            ``solo``. With the last two, workers also run programs that execute code.

    Returns:
        The app itself.

    Raises:
        ConfigurationError: the app is in use already, its servers are others than the settings name, its result backend
            isn't Redis, or it accepts other content than JSON.
    """
    _check_unused(app)
    _check_content(app)
    settings = _merge_servers(app, settings or read_settings(FleetSettings))
    # Without an exchange, a queue gets the app's default one and its routing key.
    own_queues = tuple(app.conf.task_queues or (Queue(app.conf.task_default_queue),))
    queues = (Queue(name, Exchange(name), name) for name in Pool(pool).queue_names(settings.queue).split(","))
    own_routes = _as_tuple(app.conf.task_routes)
    fleet_app = _as_fleet_app(app)
    conf = fleet_app.conf
    conf.update({name: value for name, value in celery_config(settings).items() if name not in _OF_THE_APP})
    fleet_app.equip(settings)
    fleets = {task: {"queue": settings.queue} for task in FLEET_TASKS}
    conf.task_routes = (fleets, *own_routes)
    conf.task_queues = (*own_queues, *queues)
    _choose_pool(conf, Pool(pool))
    return fleet_app


def _check_unused(app: Celery) -> None:
    """Raise ConfigurationError for an app whose tasks or connections exist already."""
    if isinstance(app, FleetApp):
        raise ConfigurationError(f"The app {app.main!r} is a fleet's already. Install the fleet once.")
    if app.finalized or "amqp" in vars(app):
        raise ConfigurationError(
            f"The app {app.main!r} is in use: its tasks or its connections exist already, and would be unchanged. "
            "Install the fleet right after the app is created and configured."
        )


def _check_content(app: Celery) -> None:
    others = sorted({str(kind) for kind in (*app.conf.accept_content, *(app.conf.result_accept_content or ()))})
    others = [kind for kind in others if kind not in ("json", "application/json")]
    if others:
        raise ConfigurationError(
            f"The app {app.main!r} accepts messages as {', '.join(others)}. A fleet's workers decode JSON alone, since "
            "other formats may run code: set accept_content to ['json']."
        )


def _merge_servers(app: Celery, settings: FleetSettings) -> FleetSettings:
    """Return the settings with the servers of the app, where it names some.

    Raises:
        ConfigurationError: the settings name other ones.
    """
    broker, tls = get_broker_url(app), app.conf.broker_use_ssl
    if broker and isinstance(tls, dict):
        broker = add_tls_options(broker, cast("dict[str, Any]", tls))
    found = {"redis_url": get_backend_url(app) if app.conf.result_backend else "", "broker_url": broker}
    if broker.startswith(REDIS_SCHEMES) and not found["redis_url"] and "redis_url" not in settings.model_fields_set:
        found["redis_url"] = broker
    found = {name: url for name, url in found.items() if url}
    for name, url in found.items():
        named: SecretStr | None = getattr(settings, name) if name in settings.model_fields_set else None
        if named is not None and named.get_secret_value() != url:
            raise ConfigurationError(
                f"The app {app.main!r} has {mask_url(url)!r}, and DSPEX_{name.upper()} is "
                f"{mask_url(named.get_secret_value())!r}. Name one of them, or the same twice."
            )
    return settings.model_copy(update={name: SecretStr(url) for name, url in found.items()})


def _as_fleet_app(app: Celery) -> FleetApp:
    """Make an app one of the fleet's, in place: tasks and decorators hold references to it.

    How an app creates tasks is a method of its class.
    """
    base: Any = symbol_by_name(app.task_cls)
    stock = app.task_cls == Celery.task_cls
    app.__class__ = FleetApp if type(app) is Celery else type(type(app).__name__, (FleetApp, type(app)), {})
    fleet_task: Any = symbol_by_name(FleetApp.task_cls)
    app.task_cls = FleetApp.task_cls if stock else type(base.__name__, (fleet_task, base), {"abstract": True})
    app.amqp_cls = FleetApp.amqp_cls
    vars(app).pop("Task", None)
    return cast(FleetApp, app)


def _choose_pool(conf: Any, pool: Pool) -> None:
    """Set the pool and its size, unless the app's configuration has a size.

    Celery takes ``--pool prefork`` for no choice; ``--pool processes`` is the same pool.
    """
    if pool is not Pool.prefork:
        conf.worker_pool = ASYNCIO_POOL if pool is Pool.asyncio else pool.value
    if conf.worker_concurrency is None:
        conf.worker_concurrency = pool.concurrency


def _as_tuple(routes: Any) -> tuple[Any, ...]:
    if not routes:
        return ()
    return tuple(routes) if isinstance(routes, list | tuple) else (routes,)
