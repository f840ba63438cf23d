"""Orders: what a client asks to be predicted, checked, and which of many go to the fleet as one batch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self, cast

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import BridgeError, DeadlineExceededError, IdempotencyConflictError, InputError
from snakepit_bridge.protocol.messages import DEFAULT_PRIORITY, DEFAULT_SESSION, MOST_URGENT
from snakepit_bridge.redis.key_names import OwnedKey
from snakepit_bridge.snapshots.freshness import OutagePolicy
from snakepit_bridge.variables.codec import parse
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api import converters
from workers.gateway.call import ClientCall, require_name, require_seconds
from workers.gateway.errors import MalformedError, NotGrantedError

# One message runs on one worker; a large batch should keep several busy, and at this size a message costs little.
_MAX_BATCH = 100

SubmissionOutcome = tuple["Submission", "str | BridgeError"]


@dataclass(frozen=True, slots=True, eq=False)
class Submission:
    """A prediction to enqueue.

    Attributes:
        program, session: whose it is.
        inputs: its inputs.
        key: its idempotency key, if it has one.
        stream: whether pieces of its answer are wanted.
        options: what else ``Fleet.submit`` takes.
    """

    program: str
    session: str
    inputs: Mapping[str, Any]
    key: OwnedKey | None
    stream: bool
    options: Mapping[str, Any]

    @classmethod
    def from_request(cls, request: pb.SubmitRequest, call: ClientCall) -> Self:
        """Reads a request.

        Raises:
            NotGrantedError: the caller may not use the session.
            MalformedError: a field can't be read.
            InputError: the inputs aren't a JSON object.
        """
        session = request.session or DEFAULT_SESSION
        if not call.grant.covers(session):
            raise NotGrantedError(call.grant.name, GrantScope.PREDICT, session)
        key = OwnedKey(call.grant.name, request.idempotency_key) if request.idempotency_key else None
        return cls(request.program, session, _parse_inputs(request), key, request.stream, _parse_options(request))

    def enqueue(self, fleet: Fleet, call: ClientCall) -> str:
        """Enqueues it and returns its task id; blocks."""
        _check_deadline(call)
        return fleet.submit(
            self.program,
            self.inputs,
            session=self.session,
            idempotency_key=self.key,
            stream=self.stream,
            **self.options,
        ).id

    @property
    def batch_key(self) -> tuple[Any, ...]:
        """What orders of one batch have in common. One whose answer is followed goes alone: a batch isn't streamed."""
        return (self.program, self.session, *self.options.values(), id(self) if self.stream else 0)


def group_into_batches(orders: Iterable[Submission]) -> list[list[Submission]]:
    """Returns the orders in groups, each of which can be one batch."""
    groups: dict[tuple[Any, ...], list[Submission]] = {}
    for order in orders:
        groups.setdefault(order.batch_key, []).append(order)
    return [some[start : start + _MAX_BATCH] for some in groups.values() for start in range(0, len(some), _MAX_BATCH)]


def enqueue_batch(fleet: Fleet, orders: Sequence[Submission], call: ClientCall) -> list[SubmissionOutcome]:
    """Enqueues orders that are together; returns each with its task id, or with what is wrong with it. Blocks."""
    first = orders[0]
    if len(orders) == 1:
        return _enqueue_individually(fleet, orders, call)
    try:
        _check_deadline(call)
        handles = fleet.submit_batch(
            first.program,
            [order.inputs for order in orders],
            session=first.session,
            idempotency_keys=[order.key for order in orders],
            **first.options,
        )
    except (IdempotencyConflictError, InputError):
        return _enqueue_individually(fleet, orders, call)  # nothing was sent, and only some are at fault
    except BridgeError as exc:
        return [(order, exc) for order in orders]
    return [(order, handle.id) for order, handle in zip(orders, handles, strict=True)]


def _enqueue_individually(fleet: Fleet, orders: Iterable[Submission], call: ClientCall) -> list[SubmissionOutcome]:
    ends: list[SubmissionOutcome] = []
    for order in orders:
        try:
            ends.append((order, order.enqueue(fleet, call)))
        except BridgeError as exc:
            ends.append((order, exc))
    return ends


def _check_deadline(call: ClientCall) -> None:
    if not call.remaining_s:
        raise DeadlineExceededError("that was not enqueued", 0.0)


def _parse_options(request: pb.SubmitRequest) -> dict[str, Any]:
    if request.priority > MOST_URGENT:
        raise MalformedError("priority", f"it is 1 to {MOST_URGENT}, the most urgent, or 0 for {DEFAULT_PRIORITY}")
    deadline_s = require_seconds(request.deadline_s, "deadline_s")
    stale = require_seconds(request.max_staleness_s, "max_staleness_s") if request.HasField("max_staleness_s") else None
    return {
        "at_least": converters.parse_token(request.at_least, "at_least"),
        "exactly": converters.parse_token(request.exactly, "exactly"),
        "deadline": deadline_s or None,
        "max_staleness": stale,
        "outage": _parse_outage(request.outage),
        "priority": request.priority or DEFAULT_PRIORITY,
    }


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
