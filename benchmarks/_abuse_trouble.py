"""What befalls a Redis while a fleet works: each for a second or two, and over again by itself."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from redis.exceptions import RedisError

from workers.dev.redis_server import EmbeddedRedis

_AWAY_S = 1.5


def _flush_scripts(server: EmbeddedRedis) -> None:
    server.cli("SCRIPT", "FLUSH")


def _cut_connections(server: EmbeddedRedis) -> None:
    server.cli("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    server.cli("CLIENT", "KILL", "TYPE", "pubsub", "SKIPME", "yes")


def _pause(server: EmbeddedRedis) -> None:
    server.cli("CLIENT", "PAUSE", int(_AWAY_S * 1000))


def _fill(server: EmbeddedRedis) -> None:
    server.cli("CONFIG", "SET", "maxmemory", "1")
    time.sleep(_AWAY_S)
    server.cli("CONFIG", "SET", "maxmemory", "0")


def _make_read_only(server: EmbeddedRedis) -> None:
    server.cli("CONFIG", "SET", "min-replicas-to-write", "1")
    time.sleep(_AWAY_S)
    server.cli("CONFIG", "SET", "min-replicas-to-write", "0")


def _restart(server: EmbeddedRedis) -> None:
    server.kill()
    time.sleep(_AWAY_S / 3)
    server.restart()


TROUBLES: Mapping[str, Callable[[EmbeddedRedis], None]] = {
    "scripts flushed": _flush_scripts,
    "connections cut": _cut_connections,
    "paused": _pause,
    "full": _fill,
    "read-only": _make_read_only,
    "killed and restarted": _restart,
}


@dataclass(slots=True)
class Trouble:
    """Brings trouble over a server again and again, on a thread of its own, from ``start`` to ``stop``.

    Attributes:
        server: the one.
        every_s: seconds between the end of one trouble and the next.
        chance: draws what comes.
        happened: how often each did.
        windows: from when to when each lasted, by ``time.monotonic``.
    """

    server: EmbeddedRedis
    every_s: float
    chance: random.Random
    happened: dict[str, int] = field(default_factory=lambda: dict.fromkeys(TROUBLES, 0))
    windows: list[tuple[float, float]] = field(default_factory=list[tuple[float, float]])
    _over: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """Begin."""
        self._thread = threading.Thread(target=self._run, name="trouble", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Return once the server is well again."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._over.wait(self.every_s):
            what, begun = self.chance.choice(list(TROUBLES)), time.monotonic()
            with suppress(RedisError):  # the server may still be loading what it was restarted with
                TROUBLES[what](self.server)
                self.happened[what] += 1
            self.windows.append((begun, time.monotonic()))
