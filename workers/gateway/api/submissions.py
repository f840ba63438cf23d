"""Check submitted predictions, and group those that can be enqueued as one batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import BridgeError, DeadlineExceededError, IdempotencyConflictError, InputError
from snakepit_bridge.protocol.messages import DEFAULT_PRIORITY, DEFAULT_SESSION, MOST_URGENT
from snakepit_bridge.protocol.targeting import Attributes, check_attributes, check_key
from snakepit_bridge.redis.key_names import OwnedKey
from snakepit_bridge.snapshots.freshness import OutagePolicy
from snakepit_bridge.variables.codec import encode_canonical, parse
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api import converters
from workers.gateway.call import ClientCall, require_name, require_seconds
from workers.gateway.errors import MalformedError, NotGrantedError

# A message runs on one worker. Batches of this size spread over several workers, and still amortize a message's cost.
_MAX_BATCH = 100

SubmissionOutcome = tuple["Submission", "str | BridgeError"]


@dataclass(frozen=True, slots=True, eq=False)
class Submission:
    """A prediction to enqueue.

    Attributes:
        program, session: the program to run and the session to bind it to.
        inputs: its inputs.
        idempotency_key: its idempotency key, if any.
        stream: whether to stream chunks of its output.
        options: further arguments of ``Fleet.submit``.
    """

    program: str
    session: str
    inputs: Mapping[str, Any]
    idempotency_key: OwnedKey | None
    stream: bool
    options: Mapping[str, Any]

    @classmethod
    def from_request(cls, request: pb.SubmitRequest, call: ClientCall) -> Self:
        """Parse a request.

        Raises:
            NotGrantedError: the caller's grant doesn't cover the session.
            MalformedError: a field is invalid.
            InputError: the inputs aren't a JSON object.
        """
        session = request.session or DEFAULT_SESSION
        if not call.grant.covers(session):
            raise NotGrantedError(call.grant.name, GrantScope.PREDICT, session)
        key = OwnedKey(call.grant.name, request.idempotency_key) if request.idempotency_key else None
        return cls(request.program, session, _parse_inputs(request), key, request.stream, _parse_options(request))

    def enqueue(self, fleet: Fleet, call: ClientCall) -> str:
        """Enqueue the prediction and return its task id. Blocks.

        Raises:
            DeadlineExceededError: the call has timed out.
        """
        _check_deadline(call)
        return fleet.submit(
            self.program,
            self.inputs,
            session=self.session,
            idempotency_key=self.idempotency_key,
            stream=self.stream,
            **self.options,
        ).id

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """The key that submissions of one batch share. Streamed ones don't share theirs: batches can't be streamed."""
        options = {**self.options, "attributes": encode_canonical(self.options["attributes"])}
        return (self.program, self.session, *options.values(), id(self) if self.stream else 0)


def group_into_batches(submissions: Iterable[Submission]) -> list[list[Submission]]:
    """Group submissions so that each group can be enqueued as one batch."""
    groups: dict[tuple[Any, ...], list[Submission]] = {}
    for submission in submissions:
        groups.setdefault(submission.batch_key, []).append(submission)
    return [
        group[start : start + _MAX_BATCH] for group in groups.values() for start in range(0, len(group), _MAX_BATCH)
    ]


def enqueue_batch(fleet: Fleet, submissions: Sequence[Submission], call: ClientCall) -> list[SubmissionOutcome]:
    """Enqueue a group of submissions; return each with its task id or its error. Blocks."""
    first = submissions[0]
    if len(submissions) == 1:
        return _enqueue_individually(fleet, submissions, call)
    try:
        _check_deadline(call)
        handles = fleet.submit_batch(
            first.program,
            [submission.inputs for submission in submissions],
            session=first.session,
            idempotency_keys=[submission.idempotency_key for submission in submissions],
            **first.options,
        )
    except (IdempotencyConflictError, InputError):
        return _enqueue_individually(fleet, submissions, call)  # nothing was sent, and only some of them are invalid
    except BridgeError as exc:
        return [(submission, exc) for submission in submissions]
    return [(submission, handle.id) for submission, handle in zip(submissions, handles, strict=True)]


def _enqueue_individually(fleet: Fleet, submissions: Iterable[Submission], call: ClientCall) -> list[SubmissionOutcome]:
    outcomes: list[SubmissionOutcome] = []
    for submission in submissions:
        try:
            outcomes.append((submission, submission.enqueue(fleet, call)))
        except BridgeError as exc:
            outcomes.append((submission, exc))
    return outcomes


def _check_deadline(call: ClientCall) -> None:
    if not call.remaining_s:
        raise DeadlineExceededError("that was not enqueued", 0.0)


def _parse_options(request: pb.SubmitRequest) -> dict[str, Any]:
    if request.priority > MOST_URGENT:
        raise MalformedError("priority", f"it must be 0 to {MOST_URGENT}, the most urgent")
    deadline_s = require_seconds(request.deadline_s, "deadline_s")
    max_staleness_s = (
        require_seconds(request.max_staleness_s, "max_staleness_s") if request.HasField("max_staleness_s") else None
    )
    return {
        "at_least": converters.parse_token(request.at_least, "at_least"),
        "exactly": converters.parse_token(request.exactly, "exactly"),
        "deadline": deadline_s or None,
        "max_staleness": max_staleness_s,
        "outage": _parse_outage(request.outage),
        "priority": request.priority if request.HasField("priority") else DEFAULT_PRIORITY,
        "key": _parse_key(request.key),
        "attributes": _parse_attributes(request.attributes_json),
        "trace": request.trace,
    }


def _parse_key(text: str) -> str | None:
    try:
        return check_key(text) if text else None
    except ValueError as exc:
        raise MalformedError("key", str(exc)) from None


def _parse_attributes(text: bytes) -> Attributes | None:
    try:
        return check_attributes(parse(text)) if text else None
    except ValueError as exc:
        raise MalformedError("attributes", str(exc)) from None


def _parse_outage(text: str) -> str | None:
    if not text:
        return None
    try:
        return str(OutagePolicy.parse(text))
    except ValueError as exc:
        raise MalformedError("outage", str(exc)) from None


def _parse_inputs(request: pb.SubmitRequest) -> Mapping[str, Any]:
    require_name(request.program, "program")
    try:
        inputs = parse(request.inputs_json or b"{}")
    except (ValueError, RecursionError) as exc:
        raise InputError(request.program, "inputs", f"they aren't JSON: {exc}") from exc
    if not isinstance(inputs, dict):
        raise InputError(request.program, "inputs", "they must be a JSON object of input field to value")
    return cast("dict[str, Any]", inputs)
