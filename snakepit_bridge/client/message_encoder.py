"""Stock messages as bytes: what Celery and kombu would push onto a Redis list, made without a connection.

A reservation and its message must be written by one script, and a script takes bytes. They come from Celery's and
kombu's own code, over an in-memory channel.
"""

from __future__ import annotations

import json
import threading
from bisect import bisect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from celery import Celery
from kombu.connection import Connection
from kombu.messaging import Producer
from kombu.transport import memory
from kombu.transport.redis import PRIORITY_STEPS
from kombu.transport.redis import Channel as RedisChannel


@dataclass(frozen=True, slots=True)
class EncodedMessage:
    """A message that is ready to be pushed.

    Attributes:
        key: the list that it belongs on.
        message: its bytes.
    """

    key: str
    message: bytes


class MessageEncoder:
    """Writes a Celery app's messages as its Redis broker would hold them. Safe in threads.

    Args:
        app: whose serializer, priorities and key prefix hold.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._lock = threading.Lock()

    def encode(self, name: str, message: Any, queue: str, priority: int, headers: Mapping[str, Any]) -> EncodedMessage:
        """Return a task message as bytes, and the list for them.

        Raises:
            EncodeError, TypeError: it holds what its serializer can't write.
        """
        with self._lock:
            self._app.amqp.send_task_message(
                self._producer, name, message, queue=queue, priority=priority, headers=dict(headers), retry=False
            )
            written = self._channel.written.pop()
        return EncodedMessage(self._key(queue, priority), json.dumps(written).encode())

    @cached_property
    def _producer(self) -> Any:
        return Producer(self._channel, auto_declare=False)

    @cached_property
    def _channel(self) -> _Channel:
        return cast(_Channel, Connection(transport=_Transport).channel())

    def list_keys(self, queue: str) -> list[str]:
        """Return the lists in which a queue's messages wait, one for each priority step."""
        return [self._key_of_step(queue, step) for step in self._steps]

    def _key(self, queue: str, priority: int) -> str:
        return self._key_of_step(queue, self._steps[bisect(self._steps, priority) - 1])

    @property
    def _steps(self) -> Sequence[int]:
        return self._options.get("priority_steps") or PRIORITY_STEPS

    @property
    def _options(self) -> Mapping[str, Any]:
        return self._app.conf.broker_transport_options or {}

    def _key_of_step(self, queue: str, step: int) -> str:
        options = self._options
        place = f"{queue}{options.get('sep', RedisChannel.sep)}{step}" if step else queue
        return f"{options.get('global_keyprefix', '')}{place}"


class _Channel(memory.Channel):
    """Keeps published messages until they are popped."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.written: list[dict[str, Any]] = []

    def _put(self, queue: str, message: dict[str, Any], **_: Any) -> None:
        self.written.append(message)


class _Transport(memory.Transport):
    Channel = _Channel
