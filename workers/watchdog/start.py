"""Starts a worker's watchdog: a process of its own, connected by shared memory and a pipe for the worker's signals.

It isn't forked: what a fork shares of DSPy and Celery with its worker would be its own after a while, 60 MB of it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
from typing import Any

from celery import Celery
from pydantic import SecretStr

from config.settings import FleetSettings
from snakepit_bridge.delivery.keys import REDIS_SCHEMES
from snakepit_bridge.process.forking import after_fork_in_child
from snakepit_bridge.redis.sentinel import OPTION
from workers import PACKAGE
from workers.broker.lease_settings import HEARTBEATS_PER_LEASE
from workers.health.server import HealthServer
from workers.watchdog.beats import SharedStatus
from workers.watchdog.handover import AppAccess, BrokerAccess, Descriptors, Handover
from workers.watchdog.monitor import IGNORED_SIGNALS, MonitorSettings
from workers.watchdog.pulse import PULSE
from workers.watchdog.stacks import SIGNAL

_log = logging.getLogger(__name__)
_signals: int | None = None
# Threads write their stacks to it, so it stays open as long as the process.
_stacks: Any = None


def start_watchdog(app: Celery, settings: FleetSettings, worker: str) -> int | None:
    """Start a watchdog for this worker; return its process id, or None where there can't be one.

    Args:
        app: the worker's app.
        settings: its settings, with the time limits.
        worker: the name of the Celery node.

    Raises:
        ConfigurationError: the address of the health endpoints can't be used.
    """
    global _signals, _stacks
    if threading.current_thread() is not threading.main_thread() or not hasattr(os, "fork"):
        _log.warning("No watchdog: it needs a worker in the main thread of a Unix process")
        return None
    health = _listen(settings)
    status, stacks = SharedStatus(), tempfile.TemporaryFile(buffering=0)  # noqa: SIM115
    faulthandler.register(SIGNAL, file=stacks, all_threads=False)
    reader, writer = os.pipe()
    descriptors = Descriptors(status.fd, stacks.fileno(), reader, None if health is None else health.fd)
    try:
        pid = _spawn(hand_over(app, settings, worker, descriptors))
    finally:
        os.close(reader)
        if health is not None:
            health.detach()
    os.set_blocking(writer, False)
    # Python writes each signal's number there from C at once, even while the GIL is held.
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    _signals, _stacks = writer, stacks
    PULSE.status, PULSE.watchdog = status, pid
    return pid


def _spawn(handover: Handover) -> int:
    """Start the process, hand over on its standard input, and return its id."""
    command = [sys.executable, "-P", "-m", f"{PACKAGE}.watchdog"]
    # It finds what this process finds, wherever that was started.
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
    data = handover.encode()
    # It must not end by a signal to the group before it ignores them.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, IGNORED_SIGNALS)
    try:
        process = subprocess.Popen(
            command, stdin=subprocess.PIPE, env=environment, pass_fds=handover.descriptors.inherited
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    # The pulse waits for it by its id.
    process.returncode = 0
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError), process.stdin:
        process.stdin.write(data)
    return process.pid


def hand_over(app: Celery, settings: FleetSettings, worker: str, descriptors: Descriptors) -> Handover:
    """Return what the watchdog of a worker needs.

    Args:
        app: the worker's app.
        settings: its settings.
        worker: the name of the Celery node.
        descriptors: what the watchdog inherits.
    """
    monitor = MonitorSettings(
        worker, os.getpid(), settings.lease_s, settings.lease_s / HEARTBEATS_PER_LEASE, settings.stop_grace_s
    )
    return Handover(
        monitor,
        descriptors,
        _describe_broker(app, settings),
        AppAccess(_find_name(app), _reveal(settings)),
        settings.redis,
        settings.broker,
        settings.namespace,
        settings.redis_timeout_s,
        settings.stall_limit_s,
        settings.log,
        settings.log_redactions,
    )


def _describe_broker(app: Celery, settings: FleetSettings) -> BrokerAccess:
    conf: Any = app.conf
    options = dict(conf.broker_transport_options or {})
    if OPTION in options:
        options[OPTION] = options[OPTION].url
    holds = settings.broker.startswith(REDIS_SCHEMES)
    return BrokerAccess(
        conf.broker_write_url or conf.broker_url, conf.broker_transport, conf.broker_use_ssl, options,
        conf.broker_connection_timeout, holds,
    )  # fmt: skip


def _reveal(settings: FleetSettings) -> dict[str, Any]:
    """Return the settings as values of JSON, with their secrets."""
    found = {name: getattr(settings, name) for name in type(settings).model_fields}
    secrets = {name: value.get_secret_value() for name, value in found.items() if isinstance(value, SecretStr)}
    return {**settings.model_dump(mode="json"), **secrets}


def _find_name(app: Celery) -> str:
    """Return ``module:attribute`` of the app; empty if no module has it."""
    # The newest first: the app's own is among them, and what a worker loads has some hundred thousand names.
    for name, module in reversed(list(sys.modules.items())):
        if name != "__main__":
            for attribute, value in list(getattr(module, "__dict__", {}).items()):
                if value is app:
                    return f"{name}:{attribute}"
    return ""


def _listen(settings: FleetSettings) -> HealthServer | None:
    """Listen before the watchdog starts, so that a worker whose address is in use doesn't start."""
    return HealthServer(settings.health_address) if settings.health_address else None


def _forget() -> None:
    """Detach the pipe in forked processes: their signals aren't the worker's."""
    global _signals
    if _signals is not None:
        with contextlib.suppress(ValueError):
            signal.set_wakeup_fd(-1)
        os.close(_signals)
        _signals = None


after_fork_in_child(_forget)
