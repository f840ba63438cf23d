"""The Celery app of a client: one of its own, or the caller's, whose result backend must be the fleet's Redis."""

from __future__ import annotations

from typing import Any

from celery import Celery

from snakepit_bridge.client.broker import add_tls_options, celery_tls, check_broker_url, sentinel_options
from snakepit_bridge.client.publisher import RETRY_POLICY
from snakepit_bridge.client.rabbitmq import CONFIRMED, MAX_PRIORITY, is_rabbitmq
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.protocol.messages import DEFAULT_PRIORITY
from snakepit_bridge.protocol.namespaces import exchanges
from snakepit_bridge.redaction import register_url
from snakepit_bridge.redis.sentinel import OPTION
from snakepit_bridge.redis.urls import mask_url

_SENTINEL_TRANSPORT = "snakepit_bridge.client.sentinel:PrimaryTransport"
_SENTINEL_BACKEND = "snakepit_bridge.client.sentinel_backend:PrimaryBackend"


def create_client_app(
    url: str, *, timeout_s: float, expires_s: int, namespace: str, broker_url: str | None = None
) -> Celery:
    """Return an app that sends to the fleet on a Redis.

    Args:
        url: the Redis.
        timeout_s: seconds within which it must answer.
        expires_s: seconds that results are kept.
        namespace: the fleet's, whose workers alone its remote control reaches.
        broker_url: another broker than that Redis.
    """
    app = Celery("dspex-fleet-client", set_as_current=False)
    server, tls = celery_tls(url)
    broker, broker_tls = celery_tls(check_broker_url(broker_url) if broker_url else url)
    bounds = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    broker_options, backend_options = sentinel_options(broker_url or url), sentinel_options(url)
    if broker_options:
        app.conf.broker_transport = _SENTINEL_TRANSPORT
    if backend_options:
        app.loader.override_backends = dict.fromkeys(("redis", "rediss"), _SENTINEL_BACKEND)
    app.conf.update(
        broker_url=broker,
        broker_use_ssl=broker_tls,
        result_backend=server,
        redis_backend_use_ssl=tls,
        task_default_priority=DEFAULT_PRIORITY,
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        result_expires=expires_s,
        broker_connection_timeout=timeout_s,
        broker_transport_options=CONFIRMED if is_rabbitmq(broker) else {**bounds, **broker_options},
        task_queue_max_priority=MAX_PRIORITY if is_rabbitmq(broker) else None,
        redis_socket_timeout=timeout_s,
        redis_socket_connect_timeout=timeout_s,
        **exchanges(namespace),
        # For chains and their kin, which Celery itself sends: its own bound is 20 tries, a second apart.
        result_backend_transport_options={"retry_policy": RETRY_POLICY, **backend_options},
    )
    return app


def get_backend_url(app: Celery) -> str:
    """Return the URL of an app's result backend.

    Raises:
        ConfigurationError: it isn't Redis.
    """
    service = (app.conf.result_backend_transport_options or {}).get(OPTION)
    if service is not None:
        return service.url
    url = str(app.conf.result_backend or "")
    register_url(str(app.conf.broker_url or ""))
    if not url.startswith(("redis", "rediss", "unix", "valkey", "socket")):
        raise ConfigurationError(
            "The Celery app's result backend must be Redis, where programs and results are; "
            f"it is {mask_url(url) or 'not set'!r}."
        )
    tls: Any = app.conf.redis_backend_use_ssl
    return add_tls_options(url, tls) if isinstance(tls, dict) else url
