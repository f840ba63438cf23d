"""The chain around each LM call of a prediction: every middleware takes ``(call, call_next)`` and returns the response.

From the outside in: cancellation, span, failures, the user's own middleware, capture, journal, batch tier, response
cache, retries, fallbacks, pauses, circuit breaker, rate limits, journal once more, measurement, costs, provider. What a
call has no need for, such as the capture on workers that capture nothing, is left out of its chain.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, Self

from dspy.lm15 import Request, Response

from snakepit_bridge.costs.usage import LMUsage
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.lm.engine import LMCall, LMEngine
from snakepit_bridge.lm.extensions import MESSAGES
from snakepit_bridge.lm.policies import RetryPolicy
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.prediction_context import PredictionContext

_DEFAULT_POLICY = RetryPolicy()
_OPAQUE = (
    "LM middleware changed the messages of a call with audio, a file or another part that DSPy's canonical request "
    "can't hold. Such a call is sent with its original messages. Change its config alone, by dataclasses.replace, or "
    "refuse the call there."
)


@dataclass(frozen=True, slots=True)
class PredictionCall:
    """An LM call on its way through the chain.

    Attributes:
        scope: the prediction that makes it.
        call: the call as DSPy made it.
        engine: the engine that answers it: the call's own, or a fallback's.
        policy: how it is retried; set by the retries for what is further in.
        charges: what each request that was sent for it used and cost, in their order.
        number: its place among the equal calls of the run, where that is counted.
        usage: the same, summed by the LM profile that the request went to; the one that was asked last comes last.
    """

    scope: PredictionContext
    call: LMCall
    engine: LMEngine
    policy: RetryPolicy = _DEFAULT_POLICY
    charges: list[LMUsage] = field(default_factory=list[LMUsage])
    number: int = 0
    usage: dict[str, LMUsage] = field(default_factory=dict[str, LMUsage])

    @property
    def profile(self) -> str:
        """The LM profile that answers it."""
        return self.engine.endpoint.profile

    @property
    def request(self) -> Request:
        """The request, in DSPy's canonical form."""
        return self.call.request

    def with_request(self, request: Request) -> Self:
        """Return the call with another request, for the rest of the chain.

        Raises:
            BridgeError: the messages differ, and the call has parts that only its original messages hold.
        """
        before = self.call.request
        original = (before.config.extensions or {}).get(MESSAGES)
        kept = (request.config.extensions or {}).get(MESSAGES)
        changed = (request.messages, request.system, kept) != (before.messages, before.system, original)
        if original is not None and changed:
            raise BridgeError(_OPAQUE)
        return replace(self, call=replace(self.call, request=request))

    @property
    def snapshot(self) -> Snapshot:
        """The session's variables that the prediction runs under."""
        return self.scope.snapshot

    @property
    def task_id(self) -> str:
        """The id of the prediction."""
        return self.scope.task_id

    @property
    def program(self) -> str:
        """The name of the program."""
        return self.scope.program

    @property
    def has_streamed(self) -> bool:
        """Whether a chunk of an answer has reached the caller, after which the call can't be repeated."""
        return self.call.sink is not None and self.call.sink.any


CallNext = Callable[[PredictionCall], Awaitable[Response]]
"""The rest of the chain."""


class LMMiddleware(Protocol):
    """One concern around an LM call."""

    async def __call__(self, call: PredictionCall, call_next: CallNext, /) -> Response:
        """Return the response: the one of ``call_next``, awaited any number of times, or another."""
        ...


def compose(middlewares: Sequence[LMMiddleware], send: CallNext) -> CallNext:
    """Return a function that passes a call through the middlewares, the first outermost, and then to ``send``."""
    for middleware in reversed(middlewares):
        send = _bind(middleware, send)
    return send


def _bind(middleware: LMMiddleware, call_next: CallNext) -> CallNext:
    def run(call: PredictionCall) -> Awaitable[Response]:  # a coroutine for each would be a frame more to pass through
        return middleware(call, call_next)

    return run
