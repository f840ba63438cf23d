"""Line: the connection by which a channel claims. Nothing blocks on it, and it rings when messages may have come.

Waiting and claiming are two steps, since a script can't block. What a claim script reads, the server remembers for
this connection (client tracking), and the first change of one of those lists sends one push on it: the line rings, and
the channel claims again. That takes no connection per list as blocking commands would, touches no list, and no message
is ever in nobody's hands.
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
    """One connection, on which answers are taken as they come.

    Args:
        connection: a redis-py connection that speaks RESP3, not yet connected.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.supports_tracking = True
        self.notified = True
        self._pending: deque[ReplyHandler] = deque()
        self._scripts: dict[str, Any] = {}

    @property
    def open(self) -> bool:
        """Whether it is connected."""
        return self.connection._sock is not None

    def connect(self) -> None:
        """Connects anew; what was sent before gets no answer.

        Raises:
            ConnectionError, TimeoutError: of redis-py; the broker is away.
        """
        self._pending.clear()
        self.connection.connect()
        self.connection._parser.set_invalidation_push_handler(_on_invalidation)
        self.connection._parser.set_pubsub_push_handler(_ignore_push)
        for name in _SCRIPTS:
            self._scripts[name] = self._execute("SCRIPT", "LOAD", SCRIPTS[name].text)
        try:
            self._execute("CLIENT", "TRACKING", "ON", "NOLOOP")
        except ResponseError as refused:
            logger.warning("The broker doesn't tell of new messages, so it is asked again and again: %s", refused)
            self.supports_tracking = False
        self.notified = True

    def send(self, script: str, keys: Sequence[Any], args: Sequence[Any], on_reply: ReplyHandler) -> None:
        """Sends a script; ``answered`` gets its answer, or the error that it ended with, once it is read.

        Raises:
            ConnectionError, TimeoutError: of redis-py; the broker is away.
        """
        self._pending.append(on_reply)
        command = self.connection.pack_command("EVALSHA", self._scripts[script], len(keys), *keys, *args)
        self.connection.send_packed_command(command, check_health=False)

    def read(self) -> None:
        """Takes the answers that have come, and waits for the rest of one that has begun.

        Raises:
            ConnectionError, TimeoutError: of redis-py; the broker is away.
        """
        while True:
            try:
                answer = self.connection.read_response(push_request=True)
            except ResponseError as refused:
                answer = refused
            if answer is _INVALIDATED:
                self.notified = True
            elif answer is not None and self._pending:
                self._pending.popleft()(answer)
            if not self._has_data(0):
                return

    def drain(self, wait_s: float) -> None:
        """Takes the answers to all that was sent, within so many seconds.

        Raises:
            ConnectionError, TimeoutError: of redis-py; the broker is away.
        """
        deadline = time.monotonic() + wait_s
        while self._pending and self._has_data(max(0.0, deadline - time.monotonic())):
            self.read()

    def abort(self) -> None:
        """Makes whoever reads find the connection closed; may be called from any thread."""
        sock = self.connection._sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError as closed:
                logger.debug("The line was closed already: %s", closed)

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
    """No other push is of interest here."""
