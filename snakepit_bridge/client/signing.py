"""Sign the task messages of a Celery app, whoever makes them: Celery's own, retries and canvases included."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from celery import Celery
from kombu.serialization import dumps

from snakepit_bridge.encryption.keys import KeyRing
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE
from snakepit_bridge.protocol.signatures import SIGNATURE, MessageSigner

TaskSender = Callable[..., Any]


class _SigningProducer:
    """A kombu producer that signs what it publishes: the bytes that are sent, with all headers."""

    def __init__(self, producer: Any, signer: MessageSigner) -> None:
        self._producer = producer
        self._signer = signer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._producer, name)

    def publish(self, body: Any, *, headers: dict[str, Any], serializer: str, **options: Any) -> Any:
        """Serialize a message's body, sign it, and publish it."""
        content_type, encoding, content = dumps(body, serializer=serializer)
        data = content.encode() if isinstance(content, str) else content
        signed = {**headers, SIGNATURE: self._signer.sign(headers, data)}
        return self._producer.publish(
            content, headers=signed, content_type=content_type, content_encoding=encoding, **options
        )


def sign_sent(send: TaskSender, signer: MessageSigner) -> TaskSender:
    """Return Celery's function that sends a task message, with the message signed."""

    @wraps(send)
    def sign_and_send(producer: Any, name: str, message: Any, *args: Any, **options: Any) -> Any:
        return send(_SigningProducer(producer, signer), name, message, *args, **options)

    return sign_and_send


def sign_messages(app: Celery, keys: KeyRing, *, namespace: str = DEFAULT_NAMESPACE) -> None:
    """Have an app sign each task message that it sends, for a fleet whose workers ask for that.

    Args:
        app: the app; calling it again for one that signs changes nothing.
        keys: the fleet's signing keys.
        namespace: the fleet's.
    """
    amqp = cast(Any, app.amqp)
    if getattr(amqp.send_task_message, "__wrapped__", None) is None:
        amqp.send_task_message = sign_sent(amqp.send_task_message, MessageSigner(namespace, keys))
