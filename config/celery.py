"""Celery's configuration for the fleet, as one dictionary made from the settings."""

from __future__ import annotations

from typing import Any

from config.settings import FleetSettings

# Redis keeps one list per step and queue; a message's priority is rounded down to a step. 9 is served first, as on
# RabbitMQ and for the callers of `submit`.
PRIORITY_STEPS = (0, 3, 6, 9)
_DEFAULT_PRIORITY = 5
_MAX_PRIORITY = 9
_RABBITMQ = ("amqp://", "amqps://", "pyamqp://")


def celery_config(settings: FleetSettings) -> dict[str, Any]:
    """Return the configuration of the Celery app."""
    return {
        "broker_url": settings.broker,
        "result_backend": settings.redis,
        "task_default_queue": settings.queue,
        "task_default_priority": _DEFAULT_PRIORITY,
        **_exchanges(settings.namespace),
        # Messages come from outside: JSON alone is ever decoded.
        "task_serializer": "json",
        "result_serializer": "json",
        "accept_content": ["json"],
        "result_accept_content": ["json"],
        "result_expires": settings.result_expires_s,
        # A task is acknowledged once it is done, so that a dead worker's task is run by another.
        "task_acks_late": True,
        "task_reject_on_worker_lost": True,
        "worker_prefetch_multiplier": 1,
        # `task_track_started` would cost half a result more per task.
        "task_track_started": False,
        "worker_hijack_root_logger": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        **_broker(settings),
        # A unix socket has none, and Celery's result backend would refuse it there.
        "redis_socket_keepalive": not settings.redis.startswith(("unix://", "redis+socket://")),
        "redis_retry_on_timeout": True,
        "redis_backend_health_check_interval": 15,
    }


def _broker(settings: FleetSettings) -> dict[str, Any]:
    """Return what depends on the kind of broker."""
    if settings.broker.startswith(_RABBITMQ):
        return {
            # A message counts as sent once the broker has it on its disk. ``client.rabbitmq`` has the same rules.
            "broker_transport_options": {"confirm_publish": True},
            "task_queue_max_priority": _MAX_PRIORITY,
            # RabbitMQ closes a channel whose message is held for longer than its consumer_timeout.
            "broker_channel_error_retry": True,
            # Seconds between heartbeats; a connection without any for two of them is closed.
            "broker_heartbeat": 15,
        }
    return {
        "broker_transport_options": {
            # What waits and what is held; workers/broker reads it.
            "delivery_key": f"{settings.namespace}:delivery",
            "lease": settings.lease_s,
            "max_deliveries": settings.max_deliveries,
            "hold_limit": settings.hold_limit_s,
            "priority_steps": list(PRIORITY_STEPS),
            "queue_order_strategy": "priority",
            "socket_keepalive": True,
            "health_check_interval": 15,
        }
    }


def _exchanges(namespace: str) -> dict[str, str]:
    """Return the exchanges by which remote control and events of one namespace reach no worker of another.

    The default namespace keeps Celery's own, by which stock tools such as Flower find its workers.
    """
    if namespace == "dspex":
        return {}
    return {"control_exchange": f"{namespace}.control", "event_exchange": f"{namespace}.events"}
