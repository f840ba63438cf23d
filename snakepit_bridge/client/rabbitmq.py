"""RabbitMQ as the broker: how the fleet's queues are declared there, and what its refusals say.

Whoever declares a queue, client or worker, has to declare it alike: RabbitMQ refuses a second declaration that differs
from the first.
"""

from __future__ import annotations

import json
from base64 import b64decode
from collections.abc import Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from typing import Any
from uuid import uuid4

import amqp
import kombu.pools
from celery import Celery
from kombu.connection import Connection
from kombu.entity import Exchange, Queue

from snakepit_bridge.delivery.dead_letters import DeadLetter
from snakepit_bridge.exceptions import BridgeError, ConfigurationError
from snakepit_bridge.redaction import register_url
from snakepit_bridge.redis.outages import is_outage, to_database_error, to_unavailable_error
from snakepit_bridge.redis.urls import mask_url, user_of

RABBITMQ = ("amqp://", "amqps://", "pyamqp://")
"""What the URL of a RabbitMQ begins with."""

MAX_PRIORITY = 9
"""The most urgent priority of a message, which a queue has to be declared with."""

CONFIRMED = {"confirm_publish": True}
"""Transport options by which a message counts as sent once the broker has it on its disk."""

CONFIRM_WITHIN_S = 10.0
"""Seconds within which the broker has to say so."""

RETRIED = "dead_retry"
"""Header of a message that was sent again from the dead list."""

_REFUSED: tuple[type[Exception], ...] = (amqp.AccessRefused, amqp.NotAllowed, amqp.ResourceError)
_CONNECT_WITHIN_S = 5
# By which a submit is confirmed, a message rejected alone, and a consumer told of its queue's end.
_CAPABILITIES = ("publisher_confirms", "basic.nack", "consumer_cancel_notify")


def is_rabbitmq(url: str) -> bool:
    """Return whether a broker's URL leads to a RabbitMQ."""
    return url.startswith(RABBITMQ)


def make_queue(name: str) -> Queue:
    """Return a queue of the fleet as its workers declare it."""
    return Queue(name, Exchange(name), routing_key=name, max_priority=MAX_PRIORITY)


def check_broker(url: str, queues: Iterable[str]) -> None:
    """Declare a fleet's queues; one that can't be reached now may be there in a moment.

    Raises:
        ConfigurationError: the broker answers and refuses this user, the virtual host or the declaration of a queue.
    """
    register_url(url)
    try:
        with Connection(url, connect_timeout=_CONNECT_WITHIN_S) as connection:
            for name in queues:
                _declare(connection, url, name)
    except _REFUSED as exc:
        raise _configuration_error(exc, url) from exc
    except (OSError, amqp.ConnectionError):
        return


def read_features(url: str) -> tuple[str, tuple[str, ...]]:
    """Return the version of a RabbitMQ, and which of the capabilities that the fleet needs it doesn't announce.

    Raises:
        StoreUnavailableError: the broker is away.
        ConfigurationError: it refuses this user or the virtual host.
    """
    with translate_broker_errors(url), Connection(url, connect_timeout=_CONNECT_WITHIN_S) as connection:
        connection.connect()
        opened: Any = connection.connection
        properties: dict[str, Any] = opened.server_properties
    capabilities: dict[str, bool] = properties.get("capabilities", {})
    name = f"{properties.get('product', 'this server')} {properties.get('version', '')}".strip()
    return name, tuple(each for each in _CAPABILITIES if not capabilities.get(each))


def queue_length(connection: Any, name: str) -> int:
    """Return how many messages wait in a queue; 0 where there is no such queue.

    Args:
        connection: one of kombu's, to a RabbitMQ.
        name: the queue.
    """
    channel = connection.channel()
    try:
        return int(channel.queue_declare(name, passive=True).message_count)
    except amqp.NotFound:
        return 0
    finally:
        channel.close()


def resend(app: Celery, dead: DeadLetter) -> None:
    """Send a message from the dead list to its queue again, as one that was never given out; blocks.

    Raises:
        StoreUnavailableError: the broker is away.
    """
    message: Any = json.loads(dead.reset())
    properties: dict[str, Any] = message["properties"]
    route = properties.get("delivery_info") or {}
    passed = {name: properties[name] for name in ("correlation_id", "reply_to", "priority") if name in properties}
    with translate_broker_errors(str(app.conf.broker_url), dead.queue), acquire_confirmed_producer(app) as producer:
        producer.publish(
            b64decode(message["body"]),
            exchange=route.get("exchange") or "",
            routing_key=route.get("routing_key") or dead.queue,
            content_type=message["content-type"],
            content_encoding=message["content-encoding"],
            # So that it is told apart from what it was, should it be given up again before that is forgotten.
            headers={**message["headers"], RETRIED: str(uuid4())},
            declare=[make_queue(dead.queue)],
            confirm_timeout=CONFIRM_WITHIN_S,
            retry=True,
            retry_policy={"max_retries": 2, "interval_start": 0.2},
            **passed,
        )


@contextmanager
def translate_broker_errors(url: str, queue: str = "") -> Generator[None]:
    """Raise what a broker, RabbitMQ or Redis, answers or doesn't as ``to_broker_error`` names it."""
    try:
        yield
    except Exception as exc:
        named = to_broker_error(exc, url, queue)
        if named is None:
            raise
        raise named from exc


def to_broker_error(exc: Exception, url: str, queue: str = "") -> BridgeError | None:
    """Return the named error for what a broker, RabbitMQ or Redis, answers or doesn't; None for any other error.

    Args:
        exc: what was raised.
        url: the broker's.
        queue: the one that it is about.

    Returns:
        StoreUnavailableError: it is away, or hasn't confirmed in time.
        StoreForbiddenError: the user lacks a right on Redis.
        ConfigurationError: RabbitMQ refuses this user, the virtual host or the declaration of the queue.
    """
    if isinstance(exc, BridgeError):
        return None
    named = to_declaration_error(exc, url, queue) or _to_configuration_error(exc, url)
    named = named or to_database_error(exc, mask_url(url))
    if named is None and is_outage(exc):
        named = to_unavailable_error(exc, mask_url(url), user_of(url))
    return named


def acquire_confirmed_producer(app: Celery) -> AbstractContextManager[Any]:
    """Return a producer of an app's whose messages are confirmed, whatever the app is set to."""
    connection = app.connection_for_write(transport_options=CONFIRMED)
    return kombu.pools.producers[connection].acquire(block=True)


def to_declaration_error(exc: BaseException, url: str, queue: str) -> ConfigurationError | None:
    """Return the named error where RabbitMQ has the queue with other settings; None for any other error."""
    refused = _find_cause(exc, amqp.PreconditionFailed)
    if refused is None:
        return None
    return ConfigurationError(
        f"RabbitMQ at {mask_url(url)} has a queue '{queue}' declared with other arguments: {_text(refused)}. The fleet "
        f"declares it with x-max-priority={MAX_PRIORITY}. Let its messages drain, delete it "
        f"(rabbitmqctl delete_queue {queue}), and start again; a Celery app of your own that sends to it must set "
        f"task_queue_max_priority = {MAX_PRIORITY}."
    )


def _declare(connection: Connection, url: str, name: str) -> None:
    channel: Any = connection.channel()
    try:
        make_queue(name)(channel).declare()
    except amqp.PreconditionFailed as exc:
        raise to_declaration_error(exc, url, name) or exc from exc
    channel.close()


def _to_configuration_error(exc: BaseException, url: str) -> ConfigurationError | None:
    cause = _find_cause(exc, *_REFUSED)
    return None if cause is None else _configuration_error(cause, url)


def _configuration_error(exc: BaseException, url: str) -> ConfigurationError:
    return ConfigurationError(f"RabbitMQ at {mask_url(url)} can't be used: {_text(exc)}.")


def _find_cause(exc: BaseException, *kinds: type[BaseException]) -> BaseException | None:
    return next((each for each in (exc, exc.__cause__, exc.__context__) if isinstance(each, kinds)), None)


def _text(exc: BaseException) -> str:
    return " ".join(str(exc).split())
