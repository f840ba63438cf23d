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

Answered = Callable[[Any], None]

_RANG = object()
_SCRIPTS = ("claim", "settle")


class ClaimConnection:
    """One connection, on which answers are taken as they come.

    Args:
        connection: a redis-py connection that speaks RESP3, not yet connected.
    """

    def __init__(self, connection: Any) -> None:
        self.connection = connection
        self.rings = True
        self.rung = True
        self.sent_at = 0.0
        self._awaited: deque[Answered] = deque()
        self._scripts: dict[str, Any] = {}

    @property
    def open(self) -> bool:
        """Whether it is connected."""
        return self.connection._sock is not None

    @property
    def silent_s(self) -> float:
        """Seconds for which the oldest answer is awaited, 0 if none is."""
        return time.monotonic() - self.sent_at if self._awaited else 0.0

    def connect(self) -> None:
        """Connects anew; what was sent before gets no answer.

        Raises:
            ConnectionError, TimeoutError: of redis-py; the broker is away.
        """
        self._awaited.clear()
        self.connection.connect()
        self.connection._parser.set_invalidation_push_handler(_rang)
        self.connection._parser.set_pubsub_push_handler(_nothing)
        for name in _SCRIPTS:
            self._scripts[name] = self._ask("SCRIPT", "LOAD", SCRIPTS[name].text)
        try:
            self._ask("CLIENT", "TRACKING", "ON", "NOLOOP")
        except ResponseError as refused:
            logger.warning("The broker doesn't tell of new messages, so it is asked again and again: %s", refused)
            self.rings = False
        self.rung = True

    def send(self, script: str, keys: Sequence[Any], args: Sequence[Any], answered: Answered) -> None:
        """Sends a script; ``answered`` gets its answer, or the error that it ended with, once it is read.

        Raises:
            ConnectionError, TimeoutError: of redis-py; the broker is away.
        """
        if not self._awaited:
            self.sent_at = time.monotonic()
        self._awaited.append(answered)
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
            if answer is _RANG:
                self.rung = True
            elif answer is not None and self._awaited:
                self.sent_at = time.monotonic()
                self._awaited.popleft()(answer)
            if not self._more(0):
                return

    def finish(self, wait_s: float) -> None:
        """Takes the answers to all that was sent, within so many seconds.

        Raises:
            ConnectionError, TimeoutError: of redis-py; the broker is away.
        """
        deadline = time.monotonic() + wait_s
        while self._awaited and self._more(max(0.0, deadline - time.monotonic())):
            self.read()

    def break_off(self) -> None:
        """Makes whoever reads find the connection closed; may be called from any thread."""
        sock = self.connection._sock
        if sock is not None:
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError as closed:
                logger.debug("The line was closed already: %s", closed)

    def _more(self, wait_s: float) -> bool:
        if not self.open:
            return False
        try:
            return self.connection.can_read(wait_s)
        except ConnectionError:
            self.connection.disconnect()  # redis-py leaves that to its pools
            raise

    def _ask(self, *command: str) -> Any:
        self.connection.send_command(*command, check_health=False)
        return self.connection.read_response()


def _rang(push: object) -> object:
    return _RANG


def _nothing(push: object) -> None:
    """No other push is of interest here."""
