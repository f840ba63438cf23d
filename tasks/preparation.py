"""Prepare a prediction: read the snapshot that its request requires, choose its arms, and bind its program.

The record of a session's rollout has come with the snapshot, so that choosing an arm needs no round trip. A process
that is behind assigns by the stage that it knows; one that has followed the session within its lease knows each stage
before it begins.

A program that executes code moves on to a worker that runs each task in a process of its own: generated code, or user
code that computes for seconds, would block an event loop or the interpreter lock for all other tasks. A worker whose
tasks share a process moves such a message to the queue's ``.code`` counterpart, which prefork workers consume as well.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass

from celery.exceptions import Ignore

from snakepit_bridge.exceptions import BridgeError, DeadlineExceededError, StoreUnavailableError
from snakepit_bridge.process.open_files import OPEN_FILES
from snakepit_bridge.programs.bound import BoundProgram
from snakepit_bridge.protocol.messages import PredictionRequest, Requirement, code_queue
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.redis.outages import retry_through_outages
from snakepit_bridge.rollouts.experiments import assign_experiment, find_arm, parse_experiments
from snakepit_bridge.rollouts.records import CANDIDATE, ArmAssignment, RolloutState, assign
from snakepit_bridge.snapshots.freshness import FreshnessPolicy, ServedSnapshot
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.telemetry import TELEMETRY
from tasks.requests import Delivery
from tasks.revisions import AppliedProgram
from tasks.runtime import Runtime
from tasks.subject import current_subject
from tasks.telemetry import describe_binding, record_binding

# How long after its hard limit a prediction may be ended, as while Redis is away.
_GRACE_S = 3_600.0
_MEASURED = (RolloutState.RUNNING, RolloutState.PAUSED)


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


def choose_revision(
    newest: Snapshot, request: PredictionRequest, key: str, now_s: float
) -> tuple[Snapshot, ArmAssignment | None]:
    """Return the snapshot that a request runs under, and the arm that it is counted for; None if for none.

    Only requests for the latest revision are assigned. One for at least some token gets the baseline where that is
    enough.

    Args:
        newest: the session's newest snapshot that meets the requirement.
        request: the request.
        key: what it is assigned by; without one it gets the baseline.
        now_s: the store's time in Unix seconds.
    """
    record, baseline, required = newest.rollout, newest.baseline, request.requirement
    if record is None or baseline is None or not record.is_staged or required.kind == "exactly":
        return newest, None
    if required.token is not None:
        return (baseline if required.token <= baseline.token else newest), None
    if not key:
        return baseline, None
    arm = assign(record, key, now_s, f"session:{newest.session}")
    is_measured = record.state in _MEASURED and arm.stage > 0
    return newest if arm.arm == CANDIDATE else baseline, arm if is_measured else None


def choose_experiment_arm(newest: Snapshot, request: PredictionRequest, key: str) -> tuple[Token, ArmAssignment] | None:
    """Return the revision that a request gets in an experiment, and its arm; None if it takes part in none.

    Arguments as of :func:`choose_revision`.
    """
    if not newest.experiments or not key or request.requirement.kind != "latest":
        return None
    experiments = parse_experiments(newest.experiments)
    arm = assign_experiment(experiments, key, request.attributes or {}, f"session:{newest.session}")
    return None if arm is None else (Token.parse(find_arm(experiments, arm).revision), arm)


async def assign_snapshot(
    replica: Replica, newest: Snapshot, request: PredictionRequest, key: str
) -> tuple[Snapshot, ArmAssignment | None]:
    """Return the snapshot that a request runs under, and the arm that it is counted for; None if for none.

    That of an experiment's arm is read once and cached; all others have come with the newest one.

    Args:
        replica: the process's snapshots.
        newest: the session's newest snapshot that meets the requirement.
        request: the request.
        key: what it is assigned by; without one it gets the baseline.

    Raises:
        BridgeError: an arm's snapshot can't be read, as ``Replica.snapshot`` says.
    """
    found = choose_experiment_arm(newest, request, key)
    if found is None:
        return choose_revision(newest, request, key, replica.store_time())
    return await replica.snapshot(newest.session, Requirement("exactly", found[0])), found[1]


def encode_arms(arms: Sequence[ArmAssignment]) -> str:
    """Return the JSON text of arms."""
    return json.dumps([arm.encode() for arm in arms])


def decode_arms(text: bytes | None) -> tuple[ArmAssignment, ...]:
    """Return the arms of a JSON text; none for no text."""
    return tuple(ArmAssignment(**arm) for arm in json.loads(text)) if text else ()


def record_arms(*arms: ArmAssignment | None) -> tuple[ArmAssignment, ...]:
    """Record what the current prediction is assigned to, for the counts of its end, and return it."""
    assigned = tuple(arm for arm in arms if arm is not None)
    subject = current_subject.get()
    if subject is not None:
        subject.arms = assigned
    return assigned


def needs_code_queue(runtime: Runtime, bound: BoundProgram) -> bool:
    """Check whether a program executes code, this worker's tasks share a process, and messages can be moved."""
    return runtime.shares_process and bound.executes_code and runtime.message_leases is not None


async def move_to_code_queue(runtime: Runtime, bound: BoundProgram, delivery: Delivery) -> None:
    """Move a message to the code queue if its program executes code and this worker's tasks share a process.

    With another transport than ours messages can't be moved, and the program runs here.

    Raises:
        Ignore: the message was moved and no longer belongs to this worker.
        StoreUnavailableError: the broker is unavailable.
    """
    leases = runtime.message_leases
    if leases is None or not (needs_code_queue(runtime, bound) and delivery.claim and delivery.queue):
        return
    queue = code_queue(delivery.queue)
    await leases.move(delivery.claim, queue)
    raise Ignore(f"prediction {delivery.task_id} executes code and waits in {queue}")
