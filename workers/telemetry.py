"""Switch telemetry on in the processes of a fleet, as the environment says.

``OTEL_TRACES_EXPORTER=otlp`` and ``OTEL_METRICS_EXPORTER=otlp,prometheus`` are OpenTelemetry's own variables. A process
that is scraped listens on ``OTEL_EXPORTER_PROMETHEUS_HOST`` and ``OTEL_EXPORTER_PROMETHEUS_PORT``. In a worker that
forks, each child exports its own spans and metrics over OTLP, and the parent alone is scraped, for all of them.
"""

from __future__ import annotations

import asyncio
import atexit
import logging
import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from uuid import uuid4

from billiard.process import current_process
from celery import current_app
from celery.concurrency.prefork import TaskPool as ProcessPool
from celery.signals import worker_init, worker_process_init, worker_process_shutdown, worker_ready, worker_shutdown

from config.settings import FleetSettings
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.process.home_loop import get_home_loop
from snakepit_bridge.telemetry import TELEMETRY, setup
from snakepit_bridge.telemetry.metrics import CAPACITY, LOOP_LAG, Process
from snakepit_bridge.telemetry.setup import TelemetryOptions

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet

_log = logging.getLogger(__name__)

_HOST, _PORT = "OTEL_EXPORTER_PROMETHEUS_HOST", "OTEL_EXPORTER_PROMETHEUS_PORT"
_DEFAULT_PORT = "9464"  # OpenTelemetry's
# The Prometheus client's variable for the folder in which forked processes record.
_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
_LAG_INTERVAL_S = 1.0


def read_options(process: Process, labels: tuple[str, ...] = (), node: str = "") -> TelemetryOptions:
    """Return what the environment switches on.

    Args:
        process: the kind of this process.
        labels: optional labels of metrics.
        node: the name of a worker's node, which its instance is called by.

    Raises:
        ConfigurationError: a variable is invalid.
    """
    resource = {"service.instance.id": f"{node or socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"}
    return TelemetryOptions.from_environment(process, labels=labels, resource=resource)


def start_telemetry(options: TelemetryOptions) -> None:
    """Switch on what the options name, and serve the metrics if they are scraped.

    Raises:
        ConfigurationError: a package is missing, or the port is in use.
    """
    setup.start(options)
    if options.prometheus:
        _serve_metrics()


def _serve_metrics() -> None:
    from prometheus_client import start_http_server

    host, port = os.environ.get(_HOST) or "localhost", os.environ.get(_PORT) or _DEFAULT_PORT
    registry: Any = setup.prometheus_registry()
    try:
        start_http_server(int(port), host, registry)
    except ValueError:
        raise ConfigurationError(f"{_PORT} is {port!r}; it must be a port number.") from None
    except OSError as exc:
        raise ConfigurationError(
            f"Metrics can't be served on {host}:{port}: {exc.strerror}. Set {_HOST} and {_PORT} to a free address."
        ) from exc
    _log.info("Metrics are served at http://%s:%s/metrics", host, port)


def start_fleet_metrics(fleet: Callable[[], Fleet], followed: Collection[str] = ()) -> asyncio.Task[None] | None:
    """Begin to read and export the fleet's state on the running loop, if metrics are recorded.

    Args:
        fleet: returns the fleet.
        followed: sessions that are in use whether or not somebody asks for them.
    """
    if not TELEMETRY.meter.enabled:
        return None
    from workers.fleet_metrics import FleetMetrics

    return asyncio.create_task(FleetMetrics(fleet(), followed).run(), name="dspex-fleet-metrics")


# ----------------------------------------------------------------------------------------------------- Celery's signals


def _worker_options(app: Any, node: str = "") -> TelemetryOptions | None:
    settings = getattr(app, "settings", None)
    if not isinstance(settings, FleetSettings):
        return None
    return read_options("worker", settings.metric_labels, node)


def _forks(worker: Any) -> bool:
    return isinstance(worker.pool_cls, type) and issubclass(worker.pool_cls, ProcessPool)


@worker_init.connect
def _on_init(sender: Any = None, **_: Any) -> None:
    """Prepare for the fork; the parent starts no exporter, whose thread the children would lack."""
    options = None if sender is None else _worker_options(sender.app)
    if options is not None and options.prometheus and _forks(sender):
        try:
            _share_folder()
        except OSError as exc:
            _exit(f"No folder for the metrics of its processes can be made: {exc}.")


@worker_ready.connect
def _on_ready(sender: Any, **_: Any) -> None:
    options = _worker_options(sender.app, sender.hostname)
    if options is None:
        return
    forks = type(sender.pool).__module__ == "celery.concurrency.prefork"
    try:
        start_telemetry(replace(options, traces=False, otlp_metrics=False) if forks else options)
    except Exception as exc:  # noqa: BLE001 (Celery would log it and go on)
        _exit(str(exc))
    _trace_modules()
    if not forks and TELEMETRY.meter.enabled:
        TELEMETRY.meter.observe(CAPACITY, lambda: [(float(sender.pool.limit or 1), {})])
        _begin_metrics()


@worker_process_init.connect
def _on_fork(**_: Any) -> None:
    options = _worker_options(current_app)
    if options is None or current_process().name == "MainProcess":  # the solo pool runs its tasks in the parent
        return
    if options.prometheus:
        _forget_dead_children()
    setup.reset()
    setup.start(options)
    _trace_modules()
    if TELEMETRY.meter.enabled:
        TELEMETRY.meter.add(CAPACITY)
        _begin_metrics()


@worker_process_shutdown.connect
def _on_child_exit(**_: Any) -> None:
    setup.stop()
    if folder := os.environ.get(_FOLDER):
        _forget_child(os.getpid(), folder)


@worker_shutdown.connect
def _on_shutdown(**_: Any) -> None:
    setup.stop()


def _trace_modules() -> None:
    if TELEMETRY.tracer.enabled or TELEMETRY.meter.enabled:
        # Gateways and refreshers, which load this module as well, don't need DSPy.
        from snakepit_bridge.dspy_integration.module_spans import trace_modules

        trace_modules()


def _begin_metrics() -> None:
    """Begin to record how late the event loop of a process that runs tasks is."""
    asyncio.run_coroutine_threadsafe(_measure_loop_lag(), get_home_loop())


def _exit(problem: str) -> NoReturn:
    sys.stderr.write(f"This worker can't be observed: {problem}\n")
    raise SystemExit(1)


async def _measure_loop_lag() -> None:
    loop = asyncio.get_running_loop()
    while TELEMETRY.meter.enabled:
        due = loop.time() + _LAG_INTERVAL_S
        await asyncio.sleep(_LAG_INTERVAL_S)
        TELEMETRY.meter.record(LOOP_LAG, max(0.0, loop.time() - due))


def _share_folder() -> None:
    """Have this process and its children record in files of one folder, which is removed when this process ends."""
    if os.environ.get(_FOLDER):
        return
    folder, owner = tempfile.mkdtemp(prefix="dspex-metrics-"), os.getpid()
    os.environ[_FOLDER] = folder

    def remove() -> None:
        if os.getpid() == owner:
            shutil.rmtree(folder, ignore_errors=True)

    atexit.register(remove)


def _forget_dead_children() -> None:
    """Remove the gauges of children that were killed, which couldn't do so themselves."""
    folder = os.environ.get(_FOLDER)
    for file in Path(folder).glob("gauge_live*_*.db") if folder else ():
        pid = int(file.stem.rpartition("_")[2])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            _forget_child(pid, str(folder))
        except PermissionError:
            continue  # it lives, under another user


def _forget_child(pid: int, folder: str) -> None:
    from prometheus_client.multiprocess import mark_process_dead

    mark_process_dead(pid, folder)  # pyright: ignore[reportArgumentType]
