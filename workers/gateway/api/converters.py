"""Between the fleet's values and the messages of ``dspex.fleet.v1``."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from google.protobuf.timestamp_pb2 import Timestamp

from snakepit_bridge.client.stream import StreamChunk
from snakepit_bridge.client.task_result import TaskResult
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import PredictionCancelledError, ValidationError, VariableNotFoundError
from snakepit_bridge.protocol.messages import Result
from snakepit_bridge.protocol.provenance import Provenance
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import STORE, Change
from snakepit_bridge.snapshots.records import Changes
from snakepit_bridge.snapshots.snapshot import Snapshot
from snakepit_bridge.variables import Variable, VariableType
from snakepit_bridge.variables.codec import canonical, parse, written
from snakepit_bridge.variables.types import to_json
from workers.gateway.errors import MalformedError, to_message
from workers.gateway.json_text import quote_non_finite

ChangeBuilder = Callable[[Mapping[str, Variable]], Changes]
"""Makes changes from the variables that are there."""

_TYPES = {getattr(pb, f"VARIABLE_TYPE_{kind.name}"): kind for kind in VariableType}
_NUMBERS = {kind: number for number, kind in _TYPES.items()}


def timestamp_message(seconds: float) -> Timestamp:
    """Returns Unix seconds as a message."""
    moment = Timestamp()
    moment.FromMicroseconds(round(seconds * 1e6))
    return moment


def variable_message(one: Variable) -> pb.Variable:
    """Returns a variable as a message."""
    return pb.Variable(
        name=one.name,
        type=_NUMBERS[one.type],
        value_json=canonical(to_json(one.type, one.value)),
        constraints_json=canonical(one.constraints.as_dict()),
    )


def snapshot_message(one: Snapshot, names: Sequence[str], now: float) -> pb.Snapshot:
    """Returns a snapshot as a message, with these variables or all.

    Args:
        one: the snapshot.
        names: the variables that are wanted; all if none is named.
        now: the store's time, for the staleness.

    Raises:
        VariableNotFoundError: it lacks one of the names.
    """
    for name in names:
        if name not in one.variables:
            raise VariableNotFoundError(name, one.session, tuple(sorted(one.variables)))
    chosen = sorted(set(names)) if names else sorted(one.variables)
    return pb.Snapshot(
        session=one.session,
        token=str(one.token),
        variables=[variable_message(one.variables[name]) for name in chosen],
        confirmed_at=timestamp_message(one.confirmed_at),
        authority=one.authority,
        staleness_s=0.0 if one.authority in ("", STORE) else max(0.0, now - one.confirmed_at),
    )


def revision_message(change: Change) -> pb.Revision:
    """Returns a change of the history as a message."""
    return pb.Revision(
        token=str(change.token),
        at=timestamp_message(change.at),
        author=change.author,
        reason=change.reason,
        changes=[_variable_change_message(name, change) for name in sorted({*change.before, *change.after})],
    )


def _variable_change_message(name: str, change: Change) -> pb.VariableChange:
    before, after = change.before.get(name), change.after.get(name)
    return pb.VariableChange(
        name=name,
        before=None if before is None else variable_message(before),
        after=None if after is None else variable_message(after),
    )


def parse_changes(asked: Iterable[pb.Change], now: Mapping[str, Variable]) -> Changes:
    """Returns the changes that a publish asks for, on top of what is there.

    Raises:
        ValidationError: a value, type or constraint is refused, or a name stands twice.
        VariableNotFoundError: a variable that is to be deleted isn't there.
    """
    made: dict[str, Variable | None] = {}
    for one in asked:
        if one.name in made:
            raise ValidationError(one.name, "changed twice", "a publish changes each variable once")
        made[one.name] = _parse_change(one, now)
    return made


def _parse_change(one: pb.Change, now: Mapping[str, Variable]) -> Variable | None:
    before, said = now.get(one.name), one.WhichOneof("change")
    if said == "delete" and one.delete:
        if before is None:
            raise VariableNotFoundError(one.name, "", tuple(sorted(now)))
        return None
    if said != "value_json":
        raise ValidationError(one.name, "changed", "a change has a value, or deletes")
    value = _parse_json(one.name, one.value_json)
    kind = None if one.type == pb.VARIABLE_TYPE_UNSPECIFIED else _parse_type(one)
    given = _parse_json(one.name, one.constraints_json) if one.HasField("constraints_json") else None
    if before is None:
        return Variable.declare(one.name, value, kind, given)
    return Variable.declare(one.name, value, kind or before.type, before.constraints if given is None else given)


def _parse_type(one: pb.Change) -> VariableType:
    try:
        return _TYPES[one.type]
    except KeyError:
        raise ValidationError(one.name, f"of type {one.type}", f"the types are {', '.join(VariableType)}") from None


def _parse_json(name: str, text: bytes) -> Any:
    try:
        return parse(text)
    except (ValueError, RecursionError) as exc:
        raise ValidationError(name, "that", f"it isn't JSON ({exc})") from exc


def prediction_message(task_id: str, outcome: TaskResult) -> pb.Prediction:
    """Returns how a prediction stands as a message."""
    if outcome.result is not None:
        return _succeeded_message(task_id, outcome.result)
    if outcome.error is None:
        state = pb.PREDICTION_STATE_RUNNING if outcome.state == "RETRY" else pb.PREDICTION_STATE_QUEUED
        return pb.Prediction(id=task_id, state=state)
    cancelled = isinstance(outcome.error, PredictionCancelledError)
    state = pb.PREDICTION_STATE_CANCELLED if cancelled else pb.PREDICTION_STATE_FAILED
    return pb.Prediction(id=task_id, state=state, error=to_message(outcome.error))


def _succeeded_message(task_id: str, result: Result) -> pb.Prediction:
    made = Provenance.decode(result.provenance)
    return pb.Prediction(
        id=task_id,
        state=pb.PREDICTION_STATE_SUCCEEDED,
        outputs_json=written(quote_non_finite(result.outputs)),
        provenance=pb.Provenance(
            session=made.session,
            token=made.token,
            digest=made.digest,
            program=made.program,
            program_version=made.version,
            model=made.model,
            prompt_tokens=_sum_tokens(made.usage, "prompt_tokens"),
            completion_tokens=_sum_tokens(made.usage, "completion_tokens"),
            staleness_s=made.staleness_s if math.isfinite(made.staleness_s) else 0.0,
            outage=made.outage,
            worker=made.worker,
            record_json=written(quote_non_finite(result.provenance)),
        ),
    )


def chunk_message(one: StreamChunk) -> pb.OutputPiece:
    """Returns a piece of an answer as a message."""
    return pb.OutputPiece(
        field=one.field,
        text=one.text,
        predictor=one.predictor,
        call=one.call,
        attempt=one.attempt,
        replaced=one.replaced,
    )


def _sum_tokens(usage: Mapping[str, Any], kind: str) -> int:
    return sum(int(used.get(kind) or 0) for used in usage.values() if isinstance(used, Mapping))


def parse_token(text: str, where: str) -> Token | None:
    """Returns the token that a field of a request spells, None for an empty one.

    Raises:
        MalformedError: it spells none.
    """
    try:
        return Token.parse(text) if text else None
    except ValueError as exc:
        raise MalformedError(where, str(exc)) from exc
