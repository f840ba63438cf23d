"""Starts a worker's watchdog: forked before the worker has threads, and connected by a pipe for its signals."""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import signal
import sys
import threading
from typing import NoReturn

from celery import Celery

from snakepit_bridge.delivery.stalls import Stalls
from snakepit_bridge.process.forking import after_fork_in_child
from snakepit_bridge.redis.connection import RedisConnection
from workers.broker.keys import REDIS_SCHEMES
from workers.broker.lease_settings import HEARTBEATS_PER_LEASE
from workers.health.server import HealthServer
from workers.health.worker_probes import WorkerProbes
from workers.logs.setup import set_up_process_logs
from workers.watchdog import pulse
from workers.watchdog.beats import SharedStatus
from workers.watchdog.monitor import Monitor, MonitorSettings
from workers.watchdog.settling import ClaimSettlement
from workers.watchdog.stacks import Stacks

_IGNORED = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)

_log = logging.getLogger(__name__)
_signals: int | None = None


def start_watchdog(app: Celery, worker: str) -> int | None:
    """Fork a watchdog for this worker; return its process id, or None where there can't be one.

    Args:
        app: the worker's app, with the time limits in its ``settings``.
        worker: the name of the Celery node.

    Raises:
        ConfigurationError: the address of the health endpoints can't be used.
    """
    global _signals
    if threading.current_thread() is not threading.main_thread() or not hasattr(os, "fork"):
        _log.warning("No watchdog: it needs a worker in the main thread of a Unix process")
        return None
    health = _listen(app)
    beats, stacks, pid = SharedStatus(), Stacks(), os.getpid()
    reader, writer = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    forked = os.fork()
    if not forked:
        os.close(writer)
        _run_monitor(app, MonitorSettings(worker, pid, *_bounds(app)), beats, stacks, reader, health)
    if health is not None:
        health.detach()
    os.close(reader)
    os.set_blocking(writer, False)
    # Python writes each signal's number there from C at once, even while the GIL is held.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    _signals = writer
    pulse.PULSE.status, pulse.PULSE.watchdog = beats, forked
    return forked


def _bounds(app: Celery) -> tuple[float, float, float]:
    settings = app.settings  # pyright: ignore[reportAttributeAccessIssue] (a FleetApp)
    return settings.lease_s, settings.lease_s / HEARTBEATS_PER_LEASE, settings.stop_grace_s


def _listen(app: Celery) -> HealthServer | None:
    """Listen before the fork, so that a worker whose address is in use doesn't start."""
    address: str | None = app.settings.health_address  # pyright: ignore[reportAttributeAccessIssue] (a FleetApp)
    return HealthServer(address) if address else None


def _run_monitor(
    app: Celery, watch: MonitorSettings, beats: SharedStatus, stacks: Stacks, signals: int, health: HealthServer | None
) -> NoReturn:
    """Run the monitor in the forked process until the worker has exited."""
    code = 1
    try:
        gc.freeze()
        for sign in _IGNORED:
            signal.signal(sign, signal.SIG_IGN)
        settings = app.settings  # pyright: ignore[reportAttributeAccessIssue] (a FleetApp)
        form = "[%(asctime)s: %(levelname)s/Watchdog] %(message)s"
        set_up_process_logs(settings, logging.WARNING, form=form, process="Watchdog")
        settling = ClaimSettlement(app, holds=settings.broker.startswith(REDIS_SCHEMES))
        stalls = Stalls(
            RedisConnection(settings.redis, timeout_s=settings.redis_timeout_s), namespace=settings.namespace
        )
        monitor = Monitor(watch, beats, stacks, signals, settling, stalls)
        if health is not None:
            probes = WorkerProbes(app, monitor, beats)
            probes.start()
            health.start(probes)
        monitor.run()
        code = 0
    except BaseException:  # noqa: BLE001 (the worker must not be affected)
        _log.exception("The watchdog of %s failed; the worker continues without one", watch.worker)
    finally:
        # Skip the exit handlers that the worker registered for itself.
        with contextlib.suppress(OSError):
            sys.stderr.flush()
        os._exit(code)


def _forget() -> None:
    """Detach the pipe in other forked processes: their signals aren't the worker's."""
    global _signals
    if _signals is not None:
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(-1)
        os.close(_signals)
        _signals = None


after_fork_in_child(_forget)
