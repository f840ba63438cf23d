"""Prepare a prediction: read the snapshot that its request requires, choose its arms, and bind its program."""

from __future__ import annotations

import time
from dataclasses import dataclass

from snakepit_bridge.exceptions import BridgeError, DeadlineExceededError, StoreUnavailableError
from snakepit_bridge.process.open_files import OPEN_FILES
from snakepit_bridge.protocol.messages import PredictionRequest
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.outages import retry_through_outages
from snakepit_bridge.rollouts.records import ArmAssignment
from snakepit_bridge.snapshots.freshness import FreshnessPolicy, ServedSnapshot
from snakepit_bridge.telemetry import TELEMETRY
from tasks.arms import assign_snapshot, encode_arms, record_arms
from tasks.requests import Delivery
from tasks.revisions import AppliedProgram
from tasks.runtime import Runtime
from tasks.telemetry import describe_binding, record_binding

# How long after its hard limit a prediction may be ended, as while Redis is away.
_GRACE_S = 3_600.0


@dataclass(frozen=True, slots=True)
class PreparedProgram:
    """A program bound to the snapshot of a request; a batch prepares it once for all inputs.

    Attributes:
        served: the snapshot that meets the requirement, and its staleness.
        arms: the arms of rollouts that it is assigned to.
        is_staged: whether another request could run under another revision.
        applied: the program bound to it.
        snapshot_ms, bind_ms: the duration of both steps in milliseconds.
    """

    served: ServedSnapshot
    applied: AppliedProgram
    snapshot_ms: float
    bind_ms: float
    arms: tuple[ArmAssignment, ...] = ()
    is_staged: bool = False


async def prepare(
    runtime: Runtime, request: PredictionRequest, delivery: Delivery, *, key: str | None = None
) -> PreparedProgram:
    """Read the snapshot that a request requires and bind its program to it; the inputs don't matter.

    Outages of the store are retried until the deadline, unless the outage policy allows running without it.

    Args:
        runtime: the process's runtime.
        request: the request.
        delivery: how it was delivered.
        key: what rollouts assign it by: its own key or its task if None, and the baseline without one.

    Raises:
        BridgeError: the program or session doesn't exist, the requirement isn't met, or the binding is refused.
        DeadlineExceededError: the store was unavailable until the deadline.
    """
    key = (request.key or delivery.task_id) if key is None else key
    try:
        return await retry_through_outages(
            lambda: OPEN_FILES.wait_for_files(lambda: _prepare_once(runtime, request, delivery, key)),
            deadline=request.deadline,
        )
    except StoreUnavailableError:
        check_deadline(request, delivery)
        raise


async def _prepare_once(runtime: Runtime, request: PredictionRequest, delivery: Delivery, key: str) -> PreparedProgram:
    clock, tracer = LapTimer(), TELEMETRY.tracer
    with tracer.span("snapshot", attributes={"dspex.requirement": str(request.requirement)}) as span:
        served = await runtime.sessions.serve(
            request.session, request.requirement, _parse_freshness_policy(runtime, request)
        )
        chosen, session_arm = await assign_snapshot(runtime.sessions.replica, served.snapshot, request, key)
        now_s = runtime.sessions.replica.store_time()
        program, label_arm = await runtime.registry.resolve(
            request.program, key or delivery.task_id, now_s, request.attributes or {}
        )
        arms = record_arms(session_arm, label_arm)
        if arms:
            await _keep_arms(runtime, delivery, arms)
        is_staged = served.snapshot.is_staged or label_arm is not None
        found = request.session, str(chosen.token), program.name, program.version
        span.set_attributes(describe_binding(*found))
    # Binding may fail, or settle for an earlier revision.
    record_binding(*found)
    snapshot_ms = clock.lap_ms()
    runtime.binder.start(delivery.worker)
    with tracer.span("bind") as span:
        applied = await runtime.binder.apply(program, chosen, request.requirement)
        await _keep_snapshot(runtime, served, applied)
        bound = request.session, str(applied.snapshot.token), program.name, program.version
        span.set_attributes(describe_binding(*bound))
    if applied.refused:  # it runs under an earlier revision, and says nothing of the one that it was assigned to
        arms = record_arms(label_arm)
        await _keep_arms(runtime, delivery, arms)
    record_binding(*bound)
    return PreparedProgram(served, applied, snapshot_ms, clock.lap_ms(), arms, is_staged)


async def _keep_arms(runtime: Runtime, delivery: Delivery, arms: tuple[ArmAssignment, ...]) -> None:
    """Keep the arms of a prediction that may be ended from outside, for whoever ends it.

    That is one that has lost a worker, and is given up if it loses more, and one that has a hard time limit.
    """
    kept_s = runtime.keep_s if delivery.deliveries > 1 else delivery.hard_limit_s and delivery.hard_limit_s + _GRACE_S
    if kept_s:
        key = FleetKeys(runtime.payloads.namespace).prediction_arms(delivery.task_id)
        await runtime.results.execute("SET", key, encode_arms(arms), "EX", max(1, round(kept_s)))


async def _keep_snapshot(runtime: Runtime, served: ServedSnapshot, applied: AppliedProgram) -> None:
    """Retain the snapshot for a replay, unless the store is down and the outage policy allows running without it."""
    try:
        await runtime.keep(applied.snapshot)
    except StoreUnavailableError:
        if not served.outage:
            raise


def _parse_freshness_policy(runtime: Runtime, request: PredictionRequest) -> FreshnessPolicy:
    try:
        return FreshnessPolicy.of(request.max_staleness, request.outage, runtime.outage_policy)
    except (TypeError, ValueError) as exc:
        raise BridgeError(f"The request's max_staleness or outage policy is invalid: {exc}.") from None


def check_deadline(request: PredictionRequest, delivery: Delivery) -> None:
    """Check whether a prediction can still meet its deadline.

    Raises:
        DeadlineExceededError: the deadline has passed.
    """
    if request.deadline is not None and time.time() >= request.deadline:
        raise DeadlineExceededError(delivery.task_id, round(time.time() - request.deadline, 3))


class LapTimer:
    """Measure consecutive steps in milliseconds."""

    def __init__(self) -> None:
        self._last = time.perf_counter()

    def lap_ms(self) -> float:
        """Return the milliseconds since the last lap."""
        now = time.perf_counter()
        lap, self._last = now - self._last, now
        return to_ms(lap)


def to_ms(seconds: float) -> float:
    """Return seconds as milliseconds, at least 0."""
    return round(max(0.0, seconds) * 1000, 3)
