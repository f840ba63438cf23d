"""The lifecycle of a worker process: what is loaded before the fork, and the runtime built after it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any, cast

from celery import current_app
from celery.concurrency import get_implementation
from celery.concurrency.prefork import TaskPool as ProcessPool
from celery.concurrency.solo import TaskPool as SoloPool
from celery.signals import worker_init, worker_process_init, worker_ready
from redis.exceptions import RedisError

from config.bounds import BoundSettings
from config.celery import PRIORITY_STEPS
from config.lm_profiles import ProfilesFile, read_profiles
from config.settings import FleetSettings
from snakepit_bridge.client.broker import is_same_server
from snakepit_bridge.client.rabbitmq import check_broker, is_rabbitmq
from snakepit_bridge.costs.price import Price
from snakepit_bridge.delivery.payloads import Payloads
from snakepit_bridge.dspy_integration.bounds import TargetBounds
from snakepit_bridge.elixir.demand import SessionDemand
from snakepit_bridge.exceptions import ConfigurationError, StoreForbiddenError, StoreUnavailableError
from snakepit_bridge.lm.engine import LMMiddleware
from snakepit_bridge.lm.policies import CircuitPolicy, RetryPolicy
from snakepit_bridge.lm.profiles import LMProfile, LMProfiles
from snakepit_bridge.process.aio import OutageLog
from snakepit_bridge.process.forking import after_fork_in_child
from snakepit_bridge.process.frames import mark_tasks
from snakepit_bridge.process.home_loop import get_home_loop
from snakepit_bridge.process.open_files import raise_open_file_limit
from snakepit_bridge.programs.bound import BoundPrograms
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.protocol.json_values import ValueBounds
from snakepit_bridge.protocol.messages import CODE_SUFFIX
from snakepit_bridge.redaction import redact
from snakepit_bridge.redis.acl import Role
from snakepit_bridge.redis.acl_check import check_role
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.lease import Leases
from snakepit_bridge.redis.outages import is_transient
from snakepit_bridge.redis.pubsub import Subscription
from snakepit_bridge.redis.urls import SCHEMES
from snakepit_bridge.releases.controller import RolloutController
from snakepit_bridge.releases.counts import StageCountsReader
from snakepit_bridge.releases.index import RolloutIndex
from snakepit_bridge.releases.target_opener import TargetOpener
from snakepit_bridge.snapshots.acknowledgements import Acks
from snakepit_bridge.snapshots.freshness import OutagePolicy
from snakepit_bridge.snapshots.redis_store import RedisStore
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.telemetry.setup import check as check_telemetry
from tasks.cancellation import CancellationRegistry
from tasks.judging import Judging
from tasks.lm_middleware.chain import LMMiddlewareChain
from tasks.lm_middleware.retries import record_failure
from tasks.lm_middleware.user_middleware import load_user_middleware
from tasks.quarantine import Quarantine
from tasks.rabbitmq_deliveries import CrashCounter
from tasks.rate_limits.admission import FleetAdmission
from tasks.rate_limits.leases import LimitLeases
from tasks.rate_limits.rules import LimitValues, Rules
from tasks.rate_limits.store import LimitStore
from tasks.response_cache.single_flight import AnswerCache
from tasks.response_cache.store import AnswerStore
from tasks.revisions import RevisionBinder, SessionSnapshots
from tasks.runtime import Runtime
from workers.broker.claims import BrokerClaims
from workers.broker.keys import REDIS_SCHEMES, DeliveryKeys
from workers.content_privacy import hide_content
from workers.health.reporter import report_health
from workers.telemetry import read_options
from workers.watchdog.pulse import PULSE
from workers.watchdog.start import start_watchdog

_log = logging.getLogger(__name__)

# Garbage collection threshold of generation 0; Python's default of 700 suits small programs.
_GC_THRESHOLD = 20_000
# Share of the hold limit after which a hanging process is killed, before its message counts as lost.
_HOLD_LIMIT_SHARE = 0.8


class RuntimeSlot:
    """Builds this process's runtime on first use; a forked child builds its own.

    Attributes:
        shares_process: whether the worker's tasks share a process.
        checked: whether the configuration was checked, so that the LM profiles are resolved.
        warm: whether the clients of the LMs are built.
    """

    def __init__(self, settings: FleetSettings) -> None:
        self._settings = settings
        self.shares_process = False
        self.checked = False
        self.warm = False
        self._lock = threading.Lock()
        self._runtime: Runtime | None = None
        after_fork_in_child(self._reset)

    @property
    def built(self) -> bool:
        """Whether this process has built its runtime, so that it runs tasks."""
        return self._runtime is not None

    def get(self) -> Runtime:
        """Return the runtime, building it on first use.

        Raises:
            ConfigurationError: the LM profiles are invalid.
        """
        with self._lock:
            if self._runtime is None:
                self._runtime = build_runtime(self._settings, shares_process=self.shares_process)
            return self._runtime

    def check(self, *, keep: bool) -> None:
        """Build the runtime before anything is consumed, so that a broken configuration is found early.

        Args:
            keep: whether this process runs tasks. One that forks processes for them must not keep anything shared.

        Raises:
            ConfigurationError: a setting, a profile or a server is unusable for every prediction.
        """
        self.get()
        check_telemetry(read_options("worker", self._settings.metric_labels))
        asyncio.run(_check_servers(self._settings))
        self.checked = True
        if not keep:
            self._runtime = None

    def _reset(self) -> None:
        self._runtime, self._lock = None, threading.Lock()


async def _check_servers(settings: FleetSettings) -> None:
    """Reject servers that respond but are unusable; an unreachable one may be back soon.

    Raises:
        ConfigurationError: the password is wrong, the user lacks permissions, or the server isn't Redis.
    """
    if is_rabbitmq(settings.broker):
        check_broker(settings.broker, [settings.queue])
    for url in dict.fromkeys(url for url in (settings.redis, settings.broker) if url.partition("://")[0] in SCHEMES):
        connection = RedisConnection(url, timeout_s=settings.redis_timeout_s)
        try:
            await connection.send_each([("PING",)])
            if settings.redis == settings.broker:
                await check_role(Role.worker, connection, settings.namespace, settings.queue)
        except StoreForbiddenError as exc:
            raise ConfigurationError(str(exc)) from exc
        except StoreUnavailableError as exc:
            if not is_transient(exc):
                raise ConfigurationError(f"Redis at {exc.url} can't be used: {exc.problem}.") from exc
        except (RedisError, ValueError, TypeError) as exc:
            raise ConfigurationError(f"The server at {connection.url} can't be used as Redis: {exc}.") from exc
        finally:
            await connection.aclose()


def build_runtime(settings: FleetSettings, *, shares_process: bool = False) -> Runtime:
    """Return a runtime for these settings; it connects on first use.

    Args:
        settings: the worker's settings.
        shares_process: whether the worker's tasks share a process.

    Raises:
        ConfigurationError: the LM profiles are invalid.
    """
    claims = _claims(settings)
    store = RedisStore(settings.redis, namespace=settings.namespace, timeout_s=settings.redis_timeout_s)
    connection = RedisConnection(settings.redis, timeout_s=settings.redis_timeout_s)
    replica = Replica(
        store, settings.requirement_wait_s, watch_lease_s=settings.watch_lease_s, max_sessions=settings.max_sessions
    )
    signals = Subscription(
        connection, recheck=False, outage=OutageLog(_log, "Cancellations and shared answers are found by polling alone")
    )
    running = CancellationRegistry(connection, signals, namespace=settings.namespace)
    cache = AnswerCache(AnswerStore(connection, namespace=settings.namespace), signals)
    admission = _admission(settings, claims, connection, replica, signals)
    allowed = AllowedImports(settings.allowed_packages)
    allowed.load_modules(settings.imports)

    def build_chain(profiles: LMProfiles) -> LMMiddleware:
        user = load_user_middleware(settings.lm_middleware, profiles, allowed, cache)
        return LMMiddlewareChain(profiles, admission, running, cache, user)

    profiles = load_profiles(settings, around=build_chain)
    profiles.check()
    guard_program_lms(profiles, allowed=settings.own_lms)
    wanted = SessionDemand(connection, namespace=settings.namespace) if settings.bridge else None
    sessions = SessionSnapshots(replica, wanted, settings.requirement_wait_s)
    suspects = Quarantine()
    programs = BoundPrograms(profiles, allowed, build_limit_s=settings.build_limit_s, bounds=load_bounds())
    registry = ProgramRegistry(connection, namespace=settings.namespace)
    acks, keys = Acks(connection, namespace=settings.namespace), FleetKeys(settings.namespace)
    index = RolloutIndex(connection, keys)
    payloads = Payloads(connection, settings.namespace, settings.payload_bytes)
    return Runtime(
        sessions=sessions,
        registry=registry,
        binder=RevisionBinder(programs, sessions, acks, index),
        results=connection,
        payloads=payloads,
        store=store,
        keep_s=settings.result_expires_s,
        concurrency_limits={
            p.name: asyncio.Semaphore(p.max_in_flight) for p in profiles if p.max_in_flight is not None
        },
        batch_slots=asyncio.Semaphore(settings.batch_in_flight),
        cancellations=running,
        profiles=profiles,
        cache=cache,
        rollouts=RolloutController(
            index,
            TargetOpener(store, acks, lambda: registry),
            StageCountsReader(connection, keys),
            Leases(connection).prepare(keys.rollout_lease),
        ),
        rate_limiter=admission,
        quarantine=suspects,
        message_leases=claims,
        deliveries=_deliveries(settings, connection, suspects) if is_rabbitmq(settings.broker) else None,
        bounds=ValueBounds(settings.value_depth, settings.value_bytes),
        outage_policy=OutagePolicy.parse(settings.outage),
        shares_process=shares_process,
        judging=Judging(
            store, payloads, settings.result_expires_s, with_commit=is_same_server(settings.broker, settings.redis)
        ),
    )


def guard_program_lms(profiles: LMProfiles, *, allowed: bool) -> None:
    """Route LMs that programs create themselves through the profiles' engines, in a worker process."""
    from snakepit_bridge.dspy_integration.own_lms import ProgramLMPolicy, guard_lms
    from snakepit_bridge.dspy_integration.process_settings import are_protected

    if are_protected():
        guard_lms(ProgramLMPolicy(profiles, allowed, record_failure))


def load_bounds() -> TargetBounds:
    """Return the limits of what a program or a variable may demand of this worker.

    Raises:
        ConfigurationError: a setting isn't a number or is out of range.
    """
    try:
        return TargetBounds(**BoundSettings.model_validate({}).model_dump())
    except ValueError as exc:
        raise ConfigurationError(f"{exc}. Correct the environment.") from exc


def _claims(settings: FleetSettings) -> BrokerClaims | None:
    if not settings.broker.startswith(REDIS_SCHEMES):
        return None
    connection = RedisConnection(settings.broker, timeout_s=settings.redis_timeout_s)
    return BrokerClaims(connection, DeliveryKeys.of(settings.namespace), PRIORITY_STEPS)


def _deliveries(settings: FleetSettings, connection: RedisConnection, suspects: Quarantine) -> CrashCounter:
    return CrashCounter(
        connection,
        namespace=settings.namespace,
        lease_s=settings.lease_s,
        max_deliveries=settings.max_deliveries,
        keep_s=settings.result_expires_s,
        suspects=suspects,
    )


def _admission(
    settings: FleetSettings,
    claims: BrokerClaims | None,
    connection: RedisConnection,
    replica: Replica,
    signals: Subscription,
) -> FleetAdmission:
    """Create the rate limits: in the broker's Redis, so that tasks can be parked, or else beside the state."""
    store = LimitStore(claims.connection if claims else connection, settings.namespace, claims)
    file = _profiles_file(settings)
    limits = {name: LimitValues(**values) for name, values in file.fleet_limits().items()} if file else {}
    prices = {name: Price.of(**values) for name, values in file.prices().items()} if file else {}
    return FleetAdmission(LimitLeases(store, Rules(limits), replica, signals), prices)


def _profiles_file(settings: FleetSettings) -> ProfilesFile | None:
    try:
        return read_profiles(settings.lm_profiles) if settings.lm_profiles else None
    except ValueError as exc:
        raise ConfigurationError(f"{exc}. Correct the file.") from exc


def load_profiles(settings: FleetSettings, *, around: Callable[[LMProfiles], LMMiddleware] | None = None) -> LMProfiles:
    """Return the declared LM profiles: those of the file, or one for the settings' single model.

    Args:
        settings: the worker's settings.
        around: makes what surrounds their calls.

    Raises:
        ConfigurationError: the file is invalid, or a key that it names isn't in the environment or can't be sent.
    """
    file = _profiles_file(settings)
    if file is None:
        retry = _retry(settings, {})
        return LMProfiles([LMProfile("default", settings.lm, retry=retry)] if settings.lm else [], middleware=around)
    try:
        return LMProfiles([_profile(settings, **table) for table in file.values()], file.default, middleware=around)
    except ValueError as exc:
        raise ConfigurationError(f"{exc}. Correct the file or the environment.") from exc


def _profile(
    settings: FleetSettings,
    *,
    retry: Mapping[str, Any],
    circuit: Mapping[str, Any],
    price: Mapping[str, Any] | None,
    model_prices: Mapping[str, Mapping[str, Any]],
    **options: Any,
) -> LMProfile:
    return LMProfile(
        **options,
        retry=_retry(settings, retry),
        circuit=CircuitPolicy(**circuit),
        price=None if price is None else Price.of(**price),
        model_prices={model: Price.of(**prices) for model, prices in model_prices.items()},
    )


def _retry(settings: FleetSettings, overrides: Mapping[str, Any]) -> RetryPolicy:
    return RetryPolicy(settings.task_attempts, settings.retry_backoff_s, for_s=settings.retry_for_s).with_changes(
        overrides
    )


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


def freeze_gc() -> None:
    """Freeze loaded objects (``gc.freeze``) and raise the generation 0 threshold.

    DSPy's classes and models are some hundred thousand objects that live for ever. Traversing them took a fifth of a
    prediction's CPU time, although tasks leave hardly any cycles; and in forked children, traversal would copy their
    memory.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GC_THRESHOLD, 10, 10)


def shares_process(worker: Any) -> bool:
    """Check whether a worker's tasks share a process and it doesn't consume from the queue for code execution.

    A worker that consumes from that queue runs its tasks, whatever its pool.
    """
    pool: Any = get_implementation(worker.pool_cls)
    kept_apart = issubclass(pool, (ProcessPool, SoloPool))
    return not kept_apart and not any(name.endswith(CODE_SUFFIX) for name in worker.app.amqp.queues.consume_from)


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
def _fork_watchdog(sender: Any = None, **_: Any) -> None:
    # Connected first: the watchdog is forked before DSPy is imported, which may start threads.
    if sender is not None and isinstance(getattr(sender.app, "settings", None), FleetSettings):
        try:
            start_watchdog(sender.app, sender.hostname)
        except ConfigurationError as exc:
            sys.stderr.write(f"This worker can't start: {exc}\n")
            raise SystemExit(1) from exc


@worker_init.connect
def _before_fork(sender: Any = None, **_: Any) -> None:
    raise_open_file_limit()
    if sender is not None and isinstance(slot := getattr(sender.app, "slot", None), RuntimeSlot):
        slot.shares_process = shares_process(sender)
    if sender is not None and not sender.app.settings.log_content:
        hide_content()
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
    """Let this process release parked tasks and look after rollouts, and warm up its LMs."""
    runtime: Runtime | None = getattr(app, "runtime", None)
    if runtime is not None:
        get_home_loop().call_soon_threadsafe(runtime.rollouts.start)
        asyncio.run_coroutine_threadsafe(runtime.rate_limiter.begin(), get_home_loop())
        warming = asyncio.run_coroutine_threadsafe(runtime.profiles.warm(), get_home_loop())
        warming.add_done_callback(lambda _: setattr(app.slot, "warm", True))
