"""Take steps of rollouts and experiments, each at most once for a request id."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import SessionNotFoundError
from snakepit_bridge.redis.lease import LeaseLostError
from workers.gateway.api.request_ids import Attempt, RequestIds
from workers.gateway.call import ClientCall


class StepEvent(Protocol):
    """What a step leaves in its target's history."""

    @property
    def author(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def position(self) -> str: ...


class StepRequest(Protocol):
    """A request to take a step."""

    author: str
    reason: str
    request_id: str

    def SerializeToString(self, *, deterministic: bool = ...) -> bytes: ...  # noqa: N802 - protobuf's name


Event = TypeVar("Event", bound=StepEvent)
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Step(Generic[Event, Answer]):
    """A step, and how to tell whether it was taken.

    Attributes:
        take: takes it for an author.
        read_events: returns the target's events behind a position.
        find_answer: returns what the step answered whose event this is; None if it is the event of another one.
        encode, decode: convert an answer to the text that is kept, and back.
    """

    take: Callable[[str], Awaitable[Answer]]
    read_events: Callable[[str], Awaitable[Sequence[Event]]]
    find_answer: Callable[[Event], Answer | None]
    encode: Callable[[Answer], str]
    decode: Callable[[str], Answer]


class IdempotentSteps:
    """Takes steps for requests.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._ids = RequestIds(fleet.connection, fleet.namespace)

    async def take(self, request: StepRequest, call: ClientCall, step: Step[Event, Answer]) -> Answer:
        """Take a step unless the same request took it before; return its answer. Errors of the step pass through.

        Raises:
            RequestIdConflictError: the id belongs to another request.
        """
        author = call.grant.format_author(request.author)
        if not request.request_id:
            return await step.take(author)
        content = request.SerializeToString(deterministic=True)
        while True:
            try:
                async with self._ids.attempt(call.grant.name, request.request_id, content) as attempt:
                    return await _take_once(attempt, author, request.reason, step)
            except LeaseLostError:
                continue  # another attempt has taken over; its answer is this one's too


async def _take_once(attempt: Attempt, author: str, reason: str, step: Step[Event, Answer]) -> Answer:
    if attempt.answer is not None:
        return step.decode(attempt.answer)
    # An attempt that died has left the last event before its step.
    answer = None if attempt.base is None else await _find_step(attempt.base, author, reason, step)
    if answer is None:
        events = await _read_events("", step)
        await attempt.record_base(events[-1].position if events else "")
        answer = await step.take(author)
    await attempt.record_answer(step.encode(answer))
    return answer


async def _find_step(after: str, author: str, reason: str, step: Step[Event, Answer]) -> Answer | None:
    """Return the answer by the first event behind a position that is the step's."""
    events = [event for event in await _read_events(after, step) if (event.author, event.reason) == (author, reason)]
    return next((answer for event in events if (answer := step.find_answer(event)) is not None), None)


async def _read_events(after: str, step: Step[Event, Answer]) -> Sequence[Event]:
    try:
        return await step.read_events(after)
    except SessionNotFoundError:
        return []
