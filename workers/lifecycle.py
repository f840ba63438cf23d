"""The lifecycle of a worker process: what is loaded before the fork, and what begins after it."""

from __future__ import annotations

import asyncio
import os
import sys
from typing import Any, cast

from celery import current_app
from celery.concurrency import get_implementation
from celery.concurrency.prefork import TaskPool as ProcessPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.signals import worker_init, worker_process_init, worker_ready

from config.settings import FleetSettings
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.process.frames import mark_tasks
from snakepit_bridge.process.garbage_collection import freeze_gc
from snakepit_bridge.process.home_loop import get_home_loop
from snakepit_bridge.process.open_files import raise_open_file_limit
from snakepit_bridge.protocol.messages import CODE_SUFFIX
from snakepit_bridge.redaction import redact
from tasks.activity import ACTIVITY, WorkerNode
from tasks.runtime import Runtime
from workers.content_privacy import hide_content
from workers.health.reporter import report_health
from workers.runtime import RuntimeSlot
from workers.watchdog.pulse import PULSE
from workers.watchdog.start import start_watchdog

# Share of the hold limit after which a hanging process is killed, before its message counts as lost.
_HOLD_LIMIT_SHARE = 0.8
# What the pools' modules are called, where that isn't the pool's name.
_POOL_NAMES = {"thread": "threads", "asyncio_pool": "asyncio"}


def load_dspy() -> None:
    """Import DSPy with its caches disabled and without network access, unless that is done: a fork inherits it.

    A cached answer could come from another revision than the one that the provenance names.
    """
    os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    import dspy

    from snakepit_bridge.dspy_integration.compat import tolerate_concurrent_progress_bars
    from snakepit_bridge.dspy_integration.process_settings import are_protected, protect_settings
    from snakepit_bridge.dspy_integration.thread_context import propagate_prediction_context

    if are_protected():
        return
    dspy.configure_cache(enable_disk_cache=False, enable_memory_cache=False)
    protect_settings()
    propagate_prediction_context()
    tolerate_concurrent_progress_bars()


def shares_process(worker: Any) -> bool:
    """Check whether a worker's tasks share a process and it doesn't consume from the queue for code execution.

    A worker that consumes from that queue runs its tasks, whatever its pool.
    """
    pool: Any = get_implementation(worker.pool_cls)
    kept_apart = issubclass(pool, (ProcessPool, SoloPool))
    return not kept_apart and not any(name.endswith(CODE_SUFFIX) for name in worker.app.amqp.queues.consume_from)


def describe_node(worker: Any) -> WorkerNode:
    """Return what a worker is, as its processes report it.

    Args:
        worker: Celery's.
    """
    pool: Any = get_implementation(worker.pool_cls)
    name = str(pool.__module__).rpartition(".")[2]
    concurrency = 1 if issubclass(pool, ProcessPool) else int(worker.concurrency or 1)
    queues = tuple(sorted(worker.app.amqp.queues.consume_from))
    return WorkerNode(worker.hostname, _POOL_NAMES.get(name, name), concurrency, queues)


def check_before_consuming(worker: Any) -> None:
    """Exit a worker that can't run predictions, with one line on stderr and exit code 1.

    Otherwise it would consume messages only to fail or requeue each.
    """
    slot: RuntimeSlot = worker.app.slot
    try:
        slot.check(keep=not issubclass(cast("type[Any]", get_implementation(worker.pool_cls)), ProcessPool))
    except Exception as exc:  # whatever it is, every prediction would fail with it
        what = " ".join(redact(str(exc)).split())
        sys.stderr.write(f"This worker can't run predictions: {what}\n")
        raise SystemExit(1) from exc


@worker_init.connect
def _start_watchdog(sender: Any = None, **_: Any) -> None:
    # Connected first: the watchdog also watches what else the worker does at its start.
    settings = getattr(getattr(sender, "app", None), "settings", None)
    if sender is not None and isinstance(settings, FleetSettings):
        try:
            start_watchdog(sender.app, settings, sender.hostname)
        except ConfigurationError as exc:
            sys.stderr.write(f"This worker can't start: {exc}\n")
            raise SystemExit(1) from exc


@worker_init.connect
def _before_fork(sender: Any = None, **_: Any) -> None:
    raise_open_file_limit()
    if sender is not None and isinstance(slot := getattr(sender.app, "slot", None), RuntimeSlot):
        slot.shares_process = shares_process(sender)
    if sender is not None:
        # Where tasks see it: --time-limit is else known to the pool alone.
        sender.app.conf.task_time_limit = sender.time_limit
    if sender is not None and not sender.app.settings.log_content:
        hide_content()
    if sender is not None:
        ACTIVITY.node = describe_node(sender)
    # Imported once in the parent, its 60 MB are shared by all prefork children.
    load_dspy()
    if sender is not None and isinstance(getattr(sender.app, "slot", None), RuntimeSlot):
        check_before_consuming(sender)
    freeze_gc()


@worker_process_init.connect
def _after_fork(**_: Any) -> None:
    load_dspy()
    _join_fleet(current_app)
    _begin_pulse(current_app, alone=True)


@worker_ready.connect
def _on_ready(sender: Any, **_: Any) -> None:
    # A prefork parent forks again later, and must not have an event loop or connections by then.
    if type(sender.pool).__module__ != "celery.concurrency.prefork":
        _join_fleet(sender.app)
        _begin_pulse(sender.app, alone=isinstance(sender.pool, SoloPool))
    report_health(sender)


def _begin_pulse(app: Any, *, alone: bool) -> None:
    """Have the watchdog monitor this process's event loop; a prediction with its own process may compute for longer."""
    settings: FleetSettings | None = getattr(app, "settings", None)
    if settings is not None:
        mark_tasks(get_home_loop())
        PULSE.start(get_home_loop(), settings.hold_limit_s * _HOLD_LIMIT_SHARE if alone else settings.stall_limit_s)


def _join_fleet(app: Any) -> None:
    """Let this process report, release parked tasks and look after rollouts, and warm up its LMs."""
    runtime: Runtime | None = getattr(app, "runtime", None)
    if runtime is not None:
        get_home_loop().call_soon_threadsafe(runtime.rollouts.start)
        if runtime.activity is not None:
            get_home_loop().call_soon_threadsafe(runtime.activity.start)
        if runtime.collector is not None:
            get_home_loop().call_soon_threadsafe(runtime.collector.start)
        if runtime.trimmer is not None:
            get_home_loop().call_soon_threadsafe(runtime.trimmer.start)
        asyncio.run_coroutine_threadsafe(runtime.rate_limiter.begin(), get_home_loop())
        warming = asyncio.run_coroutine_threadsafe(runtime.profiles.warm(), get_home_loop())
        warming.add_done_callback(lambda _: setattr(app.slot, "warm", True))
