"""The non-blocking RESP3 connection that claims are sent on; client tracking tells it when messages may have arrived.

Waiting and claiming are two steps, since a script can't block. The server remembers the keys that a claim script read
on this connection (client tracking), and pushes one invalidation at the first change of one of them: then the channel
claims again. Unlike blocking commands, this needs no connection per list, and no message is ever popped without being
recorded as leased.
"""

from __future__ import annotations

import logging
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from redis.exceptions import ConnectionError, ResponseError

from workers.broker.lua import SCRIPTS

logger = logging.getLogger(__name__)

ReplyHandler = Callable[[Any], None]

_INVALIDATED = object()
_SCRIPTS = ("claim", "settle")


class ClaimConnection:
    """One connection, whose replies are processed as they arrive.

    Args:
        connection: a redis-py connection for RESP3, not yet connected.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.supports_tracking = True
        self.notified = True
        self._pending: deque[ReplyHandler] = deque()
        self._scripts: dict[str, Any] = {}

    @property
    def open(self) -> bool:
        """Whether the connection is open."""
        return self.connection._sock is not None

    def connect(self) -> None:
        """Connect; requests that were sent before get no reply.

        Raises:
            ConnectionError, TimeoutError: the broker is unreachable (redis-py's errors).
        """
        self._pending.clear()
        self.connection.connect()
        self.connection._parser.set_invalidation_push_handler(_on_invalidation)
        self.connection._parser.set_pubsub_push_handler(_ignore_push)
        for name in _SCRIPTS:
            self._scripts[name] = self._execute("SCRIPT", "LOAD", SCRIPTS[name].text)
        try:
            self._execute("CLIENT", "TRACKING", "ON", "NOLOOP")
        except ResponseError as exc:
            logger.warning("Client tracking isn't available, polling for messages instead: %s", exc)
            self.supports_tracking = False
        self.notified = True

    def send(self, script: str, keys: Sequence[Any], args: Sequence[Any], on_reply: ReplyHandler) -> None:
        """Send a script; ``answered`` gets its answer, or the error that it ended with, once it is read.

        Raises:
            ConnectionError, TimeoutError: the broker is unreachable (redis-py's errors).
        """
        self._pending.append(on_reply)
        command = self.connection.pack_command("EVALSHA", self._scripts[script], len(keys), *keys, *args)
        self.connection.send_packed_command(command, check_health=False)

    def read(self) -> None:
        """Process the replies that have arrived, waiting for the rest of a partial one.

        Raises:
            ConnectionError, TimeoutError: the broker is unreachable (redis-py's errors).
        """
        while True:
            try:
                reply = self.connection.read_response(push_request=True)
            except ResponseError as exc:
                reply = exc
            if reply is _INVALIDATED:
                self.notified = True
            elif reply is not None and self._pending:
                self._pending.popleft()(reply)
            if not self._has_data(0):
                return

    def drain(self, wait_s: float) -> None:
        """Process the replies to all pending requests, for at most ``wait_s`` seconds.

        Raises:
            ConnectionError, TimeoutError: the broker is unreachable (redis-py's errors).
        """
        deadline = time.monotonic() + wait_s
        while self._pending and self._has_data(max(0.0, deadline - time.monotonic())):
            self.read()

    def abort(self) -> None:
        """Shut the socket down, so that the next read raises; may be called from any thread."""
        sock = self.connection._sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError as exc:
                logger.debug("The claim connection was already closed: %s", exc)

    def _has_data(self, wait_s: float) -> bool:
        if not self.open:
            return False
        try:
            return self.connection.can_read(wait_s)
        except ConnectionError:
            self.connection.disconnect()  # redis-py leaves that to its pools
            raise

    def _execute(self, *command: str) -> Any:
        self.connection.send_command(*command, check_health=False)
        return self.connection.read_response()


def _on_invalidation(push: object) -> object:
    return _INVALIDATED


def _ignore_push(push: object) -> None:
    """Ignore other pushes."""
