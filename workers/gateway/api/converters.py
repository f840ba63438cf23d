"""Convert between the fleet's values and the messages of ``dspex.fleet.v1``."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from snakepit_bridge.client.results import TaskResult
from snakepit_bridge.client.stream import StreamChunk
from snakepit_bridge.costs.usage import LMUsage, format_usd
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import PredictionCancelledError, ValidationError, VariableNotFoundError
from snakepit_bridge.protocol.messages import Result
from snakepit_bridge.protocol.provenance import Provenance
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.rollouts.assignment import MILLION
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.experiments import Experiment
from snakepit_bridge.rollouts.records import RolloutRecord, RolloutState
from snakepit_bridge.snapshots import STORE, Change
from snakepit_bridge.snapshots.records import Changes
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable, VariableType
from snakepit_bridge.variables.codec import encode_canonical, encode_json, parse
from snakepit_bridge.variables.types import to_json
from workers.gateway.errors import MalformedError, to_message
from workers.gateway.json_text import to_strict_json

ChangeBuilder = Callable[[Mapping[str, Variable]], Changes]
"""Builds changes from a session's current variables."""

_POSITION = re.compile(r"[0-9]{1,19}-[0-9]{1,19}")
_TYPES = {getattr(pb, f"VARIABLE_TYPE_{kind.name}"): kind for kind in VariableType}
_NUMBERS = {kind: number for number, kind in _TYPES.items()}
_ROLLOUT_STATES = {state: getattr(pb, f"ROLLOUT_STATE_{state.name}") for state in RolloutState}


def timestamp_message(seconds: float) -> Timestamp:
    """Return Unix seconds as a message."""
    moment = Timestamp()
    moment.FromMicroseconds(round(seconds * 1e6))
    return moment


def usage_message(usage: LMUsage) -> pb.LMUsage:
    """Return what LM calls used as a message."""
    return pb.LMUsage(
        calls=usage.calls,
        unpriced_calls=usage.unpriced_calls,
        input_tokens=usage.input_tokens,
        cached_input_tokens=usage.cached_input_tokens,
        output_tokens=usage.output_tokens,
        reasoning_tokens=usage.reasoning_tokens,
        cost_usd=None if usage.cost_usd is None else format_usd(usage.cost_pico),
    )


def variable_message(variable: Variable) -> pb.Variable:
    """Return a variable as a message."""
    return pb.Variable(
        name=variable.name,
        type=_NUMBERS[variable.type],
        value_json=encode_canonical(to_json(variable.type, variable.value)),
        constraints_json=encode_canonical(variable.constraints.as_dict()),
    )


def snapshot_message(snapshot: Snapshot, names: Sequence[str], now: float) -> pb.Snapshot:
    """Return a snapshot as a message.

    Args:
        snapshot: the snapshot.
        names: the variables to include; all if empty.
        now: the store's time in Unix seconds, for the staleness.

    Raises:
        VariableNotFoundError: the snapshot lacks one of the names.
    """
    for name in names:
        if name not in snapshot.variables:
            raise VariableNotFoundError(name, snapshot.session, tuple(sorted(snapshot.variables)))
    chosen = sorted(set(names)) if names else sorted(snapshot.variables)
    return pb.Snapshot(
        session=snapshot.session,
        token=str(snapshot.token),
        variables=[variable_message(snapshot.variables[name]) for name in chosen],
        confirmed_at=timestamp_message(snapshot.confirmed_at),
        authority=snapshot.authority,
        staleness_s=0.0 if snapshot.authority in ("", STORE) else max(0.0, now - snapshot.confirmed_at),
        **_staged_fields(snapshot, chosen, now),
    )


def _staged_fields(snapshot: Snapshot, names: Sequence[str], now: float) -> dict[str, Any]:
    """Return the fields of a snapshot that tell of the rollout that stages it; none if it isn't staged."""
    record, baseline = snapshot.rollout, snapshot.baseline
    if record is None or not record.is_staged:
        return {}
    differences = {} if baseline is None else snapshot.diff(baseline)
    return {
        "rollout": rollout_message(f"session:{snapshot.session}", record, now),
        "staged": [difference_message(name, *sides) for name, sides in differences.items() if name in names],
    }


def rollout_message(target: str, record: RolloutRecord, now: float) -> pb.Rollout:
    """Return a rollout as a message.

    Args:
        target: what it stages.
        record: how far it is.
        now: the store's time in Unix seconds, for the share; inf for that of its stage once it counts.
    """
    return pb.Rollout(
        target=target,
        id=record.id,
        state=_ROLLOUT_STATES[record.state],
        stage=record.stage,
        share=record.share_at(now) / MILLION,
        baseline=record.baseline,
        candidate=record.candidate,
        sequence=record.sequence,
    )


def experiment_message(target: str, experiment: Experiment) -> pb.Experiment:
    """Return an experiment on a target as a message."""
    return pb.Experiment(
        target=target,
        name=experiment.name,
        id=experiment.id,
        state=getattr(pb, f"EXPERIMENT_STATE_{experiment.state.name}"),
        arms=[
            pb.ExperimentArm(name=arm.name, weight=arm.weight / MILLION, revision=arm.revision)
            for arm in experiment.arms
        ],
        from_share=experiment.from_share / MILLION,
        to_share=experiment.to_share / MILLION,
        segment_json=b"" if experiment.segment is None else encode_json(to_strict_json(experiment.segment)),
        winner=experiment.winner,
    )


def rollout_event_message(target: str, event: RolloutEvent) -> pb.RolloutEvent:
    """Return an event of a target's rollout as a message."""
    return pb.RolloutEvent(
        kind=getattr(pb, f"ROLLOUT_EVENT_KIND_{event.kind.upper()}"),
        rollout=rollout_message(target, event.record, math.inf),
        author=event.author,
        reason=event.reason,
        detail_json=encode_json(to_strict_json(event.detail)),
        at=timestamp_message(event.at),
        position=event.position,
    )


def revision_message(change: Change) -> pb.Revision:
    """Return a change of the history as a message."""
    return pb.Revision(
        token=str(change.token),
        at=timestamp_message(change.at),
        author=change.author,
        reason=change.reason,
        changes=[_variable_change_message(name, change) for name in sorted({*change.before, *change.after})],
    )


def _variable_change_message(name: str, change: Change) -> pb.VariableChange:
    return difference_message(name, change.before.get(name), change.after.get(name))


def difference_message(name: str, before: Variable | None, after: Variable | None) -> pb.VariableChange:
    """Return a variable's difference as a message; None for a side where it is missing."""
    return pb.VariableChange(
        name=name,
        before=None if before is None else variable_message(before),
        after=None if after is None else variable_message(after),
    )


def parse_changes(changes: Iterable[pb.Change], now: Mapping[str, Variable]) -> Changes:
    """Parse the changes of a publish.

    Args:
        changes: the changes as messages.
        now: the session's current variables.

    Raises:
        ValidationError: a value, type or constraint is invalid, or a variable is changed twice.
        VariableNotFoundError: a variable to delete doesn't exist.
    """
    parsed: dict[str, Variable | None] = {}
    for change in changes:
        if change.name in parsed:
            raise ValidationError(change.name, "changed twice", "a publish changes each variable once")
        parsed[change.name] = _parse_change(change, now)
    return parsed


def _parse_change(change: pb.Change, now: Mapping[str, Variable]) -> Variable | None:
    before, kind = now.get(change.name), change.WhichOneof("change")
    if kind == "delete" and change.delete:
        if before is None:
            raise VariableNotFoundError(change.name, "", tuple(sorted(now)))
        return None
    if kind != "value_json":
        raise ValidationError(change.name, "changed", "a change has a value, or deletes")
    value = _parse_json(change.name, change.value_json)
    type_ = None if change.type == pb.VARIABLE_TYPE_UNSPECIFIED else _parse_type(change)
    constraints = _parse_json(change.name, change.constraints_json) if change.HasField("constraints_json") else None
    if before is None:
        return Variable.declare(change.name, value, type_, constraints)
    return Variable.declare(
        change.name, value, type_ or before.type, before.constraints if constraints is None else constraints
    )


def _parse_type(change: pb.Change) -> VariableType:
    try:
        return _TYPES[change.type]
    except KeyError:
        types = ", ".join(VariableType)
        raise ValidationError(change.name, f"of type {change.type}", f"the types are {types}") from None


def _parse_json(name: str, text: bytes) -> Any:
    try:
        return parse(text)
    except (ValueError, RecursionError) as exc:
        raise ValidationError(name, "parsed", f"it isn't JSON ({exc})") from exc


def prediction_message(task_id: str, outcome: TaskResult) -> pb.Prediction:
    """Return the state of a prediction as a message."""
    if outcome.result is not None:
        return _succeeded_message(task_id, outcome.result)
    if outcome.error is None:
        state = pb.PREDICTION_STATE_RUNNING if outcome.state == "RETRY" else pb.PREDICTION_STATE_QUEUED
        return pb.Prediction(id=task_id, state=state)
    cancelled = isinstance(outcome.error, PredictionCancelledError)
    state = pb.PREDICTION_STATE_CANCELLED if cancelled else pb.PREDICTION_STATE_FAILED
    return pb.Prediction(id=task_id, state=state, error=to_message(outcome.error))


def _succeeded_message(task_id: str, result: Result) -> pb.Prediction:
    provenance = Provenance.decode(result.provenance)
    return pb.Prediction(
        id=task_id,
        state=pb.PREDICTION_STATE_SUCCEEDED,
        outputs_json=encode_json(to_strict_json(result.outputs)),
        completions_json=_encode_list(result.completions),
        trace_json=_encode_list(result.trace),
        provenance=pb.Provenance(
            session=provenance.session,
            token=provenance.token,
            digest=provenance.digest,
            program=provenance.program,
            program_version=provenance.version,
            model=provenance.model,
            prompt_tokens=_sum_tokens(provenance.usage, "prompt_tokens"),
            completion_tokens=_sum_tokens(provenance.usage, "completion_tokens"),
            staleness_s=provenance.staleness_s if math.isfinite(provenance.staleness_s) else 0.0,
            outage=provenance.outage,
            worker=provenance.worker,
            cost_usd=provenance.cost_usd,
            arms=map(arm_message, provenance.arms),
            record_json=encode_json(to_strict_json(result.provenance)),
        ),
    )


def arm_message(arm: Mapping[str, Any]) -> pb.Arm:
    """Return an arm that a prediction ran under as a message; fields that a newer worker added are ignored."""
    return pb.Arm(**{name: arm[name] for name in pb.Arm.DESCRIPTOR.fields_by_name if name in arm})


def _encode_list(items: Sequence[Mapping[str, Any]]) -> bytes:
    """Return items as a JSON list; nothing if there are none."""
    return encode_json(to_strict_json([dict(item) for item in items])) if items else b""


def chunk_message(chunk: StreamChunk) -> pb.OutputPiece:
    """Return a chunk of a prediction's output as a message."""
    return pb.OutputPiece(
        field=chunk.field,
        text=chunk.text,
        predictor=chunk.predictor,
        call=chunk.call,
        attempt=chunk.attempt,
        replaced=chunk.replaced,
    )


def _sum_tokens(usage: Mapping[str, Any], kind: str) -> int:
    return sum(int(used.get(kind) or 0) for used in usage.values() if isinstance(used, Mapping))


def parse_token(text: str, where: str) -> Token | None:
    """Parse the token in a field of a request; return None if the field is empty.

    Args:
        text: the field's text.
        where: the field's name, for the error.

    Raises:
        MalformedError: the text is not a token.
    """
    try:
        return Token.parse(text) if text else None
    except ValueError as exc:
        raise MalformedError(where, str(exc)) from exc


def parse_position(text: str, kind: str) -> str:
    """Return the position in a request's field ``after``; it may be empty.

    Args:
        text: the field's text.
        kind: what has that position, for the error.

    Raises:
        MalformedError: the text is no position.
    """
    if text and _POSITION.fullmatch(text) is None:
        raise MalformedError("after", f"it must be the position of a {kind}, or empty")
    return text
