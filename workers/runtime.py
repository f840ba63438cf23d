"""The runtime of a worker process: everything that its tasks share, built from the settings after the fork."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Sequence

from celery.backends.base import KeyValueStoreBackend

from config.bounds import BoundSettings
from config.celery import PRIORITY_STEPS
from config.settings import FleetSettings
from snakepit_bridge.audit.entries import AuditSource
from snakepit_bridge.audit.trail import RedisAuditTrail
from snakepit_bridge.client import Fleet
from snakepit_bridge.client.broker import is_same_server
from snakepit_bridge.client.rabbitmq import is_rabbitmq
from snakepit_bridge.costs.usage import Price
from snakepit_bridge.delivery.activity import ActivityStore
from snakepit_bridge.delivery.keys import REDIS_SCHEMES, DeliveryKeys
from snakepit_bridge.delivery.payloads import Payloads
from snakepit_bridge.dspy_integration.bounds import TargetBounds
from snakepit_bridge.elixir.demand import SessionDemand
from snakepit_bridge.encryption.cipher import EncryptionOptions
from snakepit_bridge.lm.engine import LMMiddleware
from snakepit_bridge.lm.profiles import LMProfiles
from snakepit_bridge.lm_batches.store import LMBatchStore
from snakepit_bridge.process.aio import OutageLog
from snakepit_bridge.process.forking import after_fork_in_child
from snakepit_bridge.programs.bound import BoundPrograms
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.protocol.json_values import ValueBounds
from snakepit_bridge.protocol.messages import is_final
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.lease import Leases
from snakepit_bridge.redis.pubsub import Subscription
from snakepit_bridge.releases.controller import RolloutController
from snakepit_bridge.releases.counts import StageCountsReader
from snakepit_bridge.releases.index import RolloutIndex
from snakepit_bridge.releases.look_history import LookHistory
from snakepit_bridge.releases.target_opener import TargetOpener
from snakepit_bridge.snapshots.acknowledgements import Acks
from snakepit_bridge.snapshots.freshness import OutagePolicy
from snakepit_bridge.snapshots.redis_store import RedisStore
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.telemetry.setup import check as check_telemetry
from tasks.activity import ActivityReporter
from tasks.audit_trimming import AuditTrimmer
from tasks.cancellation import CancellationRegistry
from tasks.job_runner import JobRunner
from tasks.journal.store import JournalStore
from tasks.judging import Judging
from tasks.lm_batches.collector import LMBatchCollector
from tasks.lm_batches.parking import BatchParking
from tasks.lm_middleware.chain import LMMiddlewareChain
from tasks.lm_middleware.retries import record_failure
from tasks.lm_middleware.user_middleware import load_user_middleware
from tasks.metrics import Metrics
from tasks.quarantine import Quarantine
from tasks.rabbitmq_deliveries import CrashCounter
from tasks.rate_limits.admission import FleetAdmission
from tasks.rate_limits.leases import LimitLeases
from tasks.rate_limits.rules import LimitValues, Rules
from tasks.rate_limits.store import LimitStore
from tasks.recording import Recording
from tasks.response_cache.single_flight import AnswerCache
from tasks.response_cache.store import AnswerStore
from tasks.revisions import RevisionBinder, SessionSnapshots
from tasks.runtime import Runtime
from workers.broker.claims import BrokerClaims
from workers.broker.lua import SCRIPTS
from workers.encryption import load_encryption, load_signing_keys
from workers.environment import read_settings
from workers.profiles import load_profiles, read_profiles_file
from workers.server_checks import check_servers
from workers.telemetry import read_options

# A job ends by its own time limit.
_JOB_WAIT_S = 7 * 86_400.0

# How long the journal and the inputs of a prediction are kept that waits for a batch: each may take a day, and be tried
# again.
_BATCH_KEPT_S = 7 * 86_400.0

_log = logging.getLogger(__name__)


class RuntimeSlot:
    """Builds this process's runtime on first use; a forked child builds its own.

    Attributes:
        shares_process: whether the worker's tasks share a process.
        checked: whether the configuration was checked, so that the LM profiles are resolved.
        warm: whether the clients of the LMs are built.
        runtime: the runtime, once it is built.
    """

    def __init__(self, settings: FleetSettings) -> None:
        self._settings = settings
        self.shares_process = False
        self.checked = False
        self.warm = False
        self._lock = threading.Lock()
        self.runtime: Runtime | None = None
        after_fork_in_child(self._reset)

    @property
    def built(self) -> bool:
        """Whether this process has built its runtime, so that it runs tasks."""
        return self.runtime is not None

    def get(self) -> Runtime:
        """Return the runtime, building it on first use.

        Raises:
            ConfigurationError: the LM profiles are invalid.
        """
        with self._lock:
            if self.runtime is None:
                self.runtime = build_runtime(self._settings, shares_process=self.shares_process)
            return self.runtime

    def check(self, *, keep: bool) -> None:
        """Build the runtime before anything is consumed, so that a broken configuration is found early.

        Args:
            keep: whether this process runs tasks. One that forks processes for them must not keep anything shared.

        Raises:
            ConfigurationError: a setting, a profile or a server is unusable for every prediction.
        """
        self.get()
        check_telemetry(read_options("worker", self._settings.metric_labels))
        asyncio.run(check_servers(self._settings))
        self.checked = True
        if not keep:
            self.runtime = None

    def _reset(self) -> None:
        self.runtime, self._lock = None, threading.Lock()


def build_runtime(settings: FleetSettings, *, shares_process: bool = False) -> Runtime:
    """Return a runtime for these settings; it connects on first use.

    Args:
        settings: the worker's settings.
        shares_process: whether the worker's tasks share a process.

    Raises:
        ConfigurationError: the LM profiles are invalid.
    """
    claims = _claims(settings)
    encryption, source = load_encryption(settings), AuditSource.WORKER
    cipher = encryption.cipher(settings.namespace)
    store = RedisStore(
        settings.redis,
        namespace=settings.namespace,
        source=source,
        timeout_s=settings.redis_timeout_s,
        cipher=cipher,
    )
    connection = RedisConnection(settings.redis, timeout_s=settings.redis_timeout_s, namespace=settings.namespace)
    replica = Replica(
        store, settings.requirement_wait_s, watch_lease_s=settings.watch_lease_s, max_sessions=settings.max_sessions
    )
    signals = Subscription(
        connection, recheck=False, outage=OutageLog(_log, "Cancellations and shared answers are found by polling alone")
    )
    running = CancellationRegistry(connection, signals, namespace=settings.namespace)
    cache = AnswerCache(AnswerStore(connection, namespace=settings.namespace, cipher=cipher), signals)
    admission = _admission(settings, claims, connection, replica, signals)
    allowed = AllowedImports(settings.allowed_packages)
    allowed.load_modules(settings.imports)

    batches = LMBatchStore(
        claims.connection if claims else connection,
        namespace=settings.namespace,
        claim_take=SCRIPTS["claim_take"].text,
        cipher=cipher,
    )
    payloads = Payloads(connection, settings.namespace, settings.payload_bytes, cipher)
    parking = None if claims is None else BatchParking(batches, claims, running, payloads, keep_s=_BATCH_KEPT_S)

    def build_chain(profiles: LMProfiles) -> LMMiddleware:
        user = load_user_middleware(settings.lm_middleware, profiles, allowed, cache)
        return LMMiddlewareChain(profiles, admission, running, cache, user, parking)

    profiles = load_profiles(settings, around=build_chain)
    profiles.check()
    guard_program_lms(profiles, allowed=settings.own_lms)
    limit_sandbox(settings)
    wanted = SessionDemand(connection, namespace=settings.namespace) if settings.bridge else None
    sessions = SessionSnapshots(replica, wanted, settings.requirement_wait_s)
    suspects = Quarantine()
    programs = BoundPrograms(profiles, allowed, build_limit_s=settings.build_limit_s, bounds=load_bounds())
    registry = ProgramRegistry(connection, namespace=settings.namespace, source=source, cipher=cipher)
    acks, keys = Acks(connection, namespace=settings.namespace), FleetKeys(settings.namespace)
    index = RolloutIndex(connection, keys)
    kept_s = max(settings.result_expires_s, _BATCH_KEPT_S) if profiles.has_batch_tier else settings.result_expires_s
    journals = JournalStore(connection, namespace=settings.namespace, keep_s=kept_s, cipher=cipher)

    async def find_ended(task_ids: Sequence[str]) -> set[str]:
        keys = {f"{KeyValueStoreBackend.task_keyprefix}{task_id}": task_id for task_id in task_ids}
        results = await connection.execute("MGET", *keys)
        return {task_id for task_id, stored in zip(keys.values(), results, strict=True) if is_final(stored)}

    bounds = ValueBounds(settings.value_depth, settings.value_bytes)
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
            LookHistory(connection, keys),
        ),
        metrics=Metrics(allowed),
        rate_limiter=admission,
        quarantine=suspects,
        message_leases=claims,
        deliveries=_deliveries(settings, connection, suspects) if is_rabbitmq(settings.broker) else None,
        bounds=bounds,
        outage_policy=OutagePolicy.parse(settings.outage),
        shares_process=shares_process,
        judging=Judging(
            store, payloads, settings.result_expires_s, with_commit=is_same_server(settings.broker, settings.redis)
        ),
        recording=Recording(store, payloads, bounds),
        journals=journals,
        collector=LMBatchCollector(
            batches, journals, profiles, Leases(batches.connection).prepare(batches.lease), find_ended
        ),
        trimmer=AuditTrimmer(RedisAuditTrail(connection, namespace=settings.namespace), settings.audit_entries),
        captures_lm_calls=settings.capture_lm_calls,
        jobs=JobRunner(lambda: _open_client(settings, encryption), profiles, running, journals),
        activity=ActivityReporter(ActivityStore(connection, namespace=settings.namespace)),
    )


def _open_client(settings: FleetSettings, encryption: EncryptionOptions) -> Fleet:
    """Return the client by which jobs send their predictions, and wait for them for as long as it takes."""
    return Fleet(
        settings.redis,
        broker_url=settings.broker,
        namespace=settings.namespace,
        queue=settings.queue,
        wait_s=_JOB_WAIT_S,
        timeout_s=settings.redis_timeout_s,
        result_expires_s=settings.result_expires_s,
        allowed_packages=settings.allowed_packages,
        payload_bytes=settings.payload_bytes,
        bounds=ValueBounds(settings.value_depth, settings.value_bytes),
        target_bounds=load_bounds(),
        encryption=encryption,
        signing_keys=load_signing_keys(settings),
        source=AuditSource.WORKER,
    )


def limit_sandbox(settings: FleetSettings) -> None:
    """Set what code that an LM has written may use in this process's programs."""
    from snakepit_bridge.dspy_integration.sandbox import SANDBOX, SandboxLimits

    SANDBOX.limits = SandboxLimits(settings.sandbox_cpu_s, settings.sandbox_wall_s, settings.sandbox_memory_mb)


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
    return TargetBounds(**read_settings(BoundSettings).model_dump())


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
    file = read_profiles_file(settings)
    limits = {name: LimitValues(**values) for name, values in file.fleet_limits().items()} if file else {}
    prices = {name: Price.of(**values) for name, values in file.prices().items()} if file else {}
    return FleetAdmission(LimitLeases(store, Rules(limits), replica, signals), prices)
