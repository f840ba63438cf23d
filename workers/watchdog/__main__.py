"""The watchdog's process: ``python -m workers.watchdog``, which a worker starts and hands its settings on a pipe.

It stays for as long as the worker, so it loads little: neither DSPy nor Celery's app. It loads a client of Redis before
it needs that, which is when an event loop stalls: on a busy machine loading it may take longer than a lease. It does so
some seconds after its start, when the worker, which starts at the same time, no longer needs every CPU; at once where
leases are short.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
from typing import TYPE_CHECKING

from snakepit_bridge.redaction import register_url
from workers.watchdog.beats import SharedStatus
from workers.watchdog.handover import Handover
from workers.watchdog.logs import log_as_watchdog
from workers.watchdog.monitor import IGNORED_SIGNALS, Monitor, Servers
from workers.watchdog.stacks import Stacks

if TYPE_CHECKING:
    from kombu.connection import Connection

_log = logging.getLogger(__name__)
_LOAD_AFTER_S = 15.0
# A shorter lease could lapse while a client is loaded for its renewal.
_LONG_LEASE_S = 5.0


def main() -> None:
    """Watch the worker that started this process, until it has exited."""
    for number in IGNORED_SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, IGNORED_SIGNALS)
    data = sys.stdin.buffer.read()
    code = 1
    try:
        if data:  # otherwise the worker has died
            _watch(Handover.decode(data))
            code = 0
    except BaseException:  # noqa: BLE001 (whatever it is, the worker must not be affected)
        _log.exception("The watchdog failed; the worker continues without one")
    finally:
        sys.stderr.flush()
        # Threads that wait for a server must not delay the end.
        os._exit(code)


def _watch(handover: Handover) -> None:
    register_url(handover.redis)
    register_url(handover.broker_access.url)
    log_as_watchdog(handover.log, handover.log_redactions)
    descriptors = handover.descriptors
    status = SharedStatus(descriptors.status)
    loading = Loading(_LOAD_AFTER_S if handover.monitor.lease_s >= _LONG_LEASE_S else 0.0)

    def connect() -> Servers:
        loading.finish()
        from workers.watchdog.servers import WatchdogServers

        return WatchdogServers(handover)

    monitor = Monitor(handover.monitor, status, Stacks(descriptors.stacks), descriptors.signals, connect)
    if descriptors.health is not None:
        _serve_health(handover, descriptors.health, monitor, status, loading)
    monitor.run()


class Loading:
    """The load of the clients of servers in the background: after a while, or as soon as somebody needs them."""

    def __init__(self, after_s: float) -> None:
        self._after_s, self._needed = after_s, threading.Event()
        self._thread = threading.Thread(target=self._load, daemon=True)
        self._thread.start()

    def finish(self) -> None:
        """Wait until they are loaded, which begins now if it hasn't yet."""
        self._needed.set()
        self._thread.join()

    def _load(self) -> None:
        self._needed.wait(self._after_s)
        _load_servers()


def _load_servers() -> None:
    # redis-py would load OpenTelemetry's SDK, to record what nobody reads here.
    sys.modules["opentelemetry"] = None  # pyright: ignore[reportArgumentType]
    from workers.watchdog import servers  # noqa: F401  # pyright: ignore[reportUnusedImport]


def _serve_health(handover: Handover, fd: int, monitor: Monitor, status: SharedStatus, loading: Loading) -> None:
    import socket

    from workers.health.server import HealthServer
    from workers.health.worker_probes import WorkerProbes

    def connect() -> Connection:
        from workers.watchdog.servers import connect

        return connect(handover.broker_access)

    probes = WorkerProbes(handover, monitor, status, connect)
    HealthServer(socket.socket(fileno=fd)).start(probes)

    def ask_servers() -> None:
        # Two threads that load modules which import each other may each find one half loaded.
        loading.finish()
        probes.start()

    threading.Thread(target=ask_servers, daemon=True).start()


if __name__ == "__main__":
    main()
