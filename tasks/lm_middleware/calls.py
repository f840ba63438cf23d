"""What surrounds each LM call of a prediction: is it still wanted, may it go, did it work, and what if not.

still wanted? → for its profile, then the fallbacks: circuit → limits → still wanted? → send → settle
              → failed in a way that another try may mend: a short pause here, a long one in the broker
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Iterable, Iterator
from dataclasses import replace

from dspy.lm15 import LM15Error, Request, Response

from snakepit_bridge.dspy_integration.thread_context import outside
from snakepit_bridge.exceptions import BridgeError, LMCallOutsidePredictionError, LMUnavailableError, fresh_error
from snakepit_bridge.lm.engine import LMCall, LMEngine
from snakepit_bridge.lm.models import fitting
from snakepit_bridge.lm.policies import RetryPolicy
from snakepit_bridge.lm.profiles import LMProfiles
from tasks.cancellation import CancellationRegistry
from tasks.errors import build_final_error, build_unavailable_error, retryable_kind
from tasks.lm_middleware.circuit_breaker import Circuit, CircuitOpenError
from tasks.lm_middleware.retries import effective_retry_policy
from tasks.outage_log import OutageLog
from tasks.prediction_context import PredictionContext, current_prediction
from tasks.rate_limits.protocol import Estimate, Permit, RateLimiter, Used
from tasks.response_cache.single_flight import AnswerCache

_log = logging.getLogger(__name__)

_BROKEN = frozenset({"server", "timeout", "transport"})


def note_failure(error: BridgeError) -> None:
    """Keep the failure of an LM call of the current prediction, for the case that its program swallows it."""
    scope = current_prediction()
    if scope is not None:
        scope.tally.failure = error


class LMCalls:
    """The gate that every LM call of a process goes through. Lives on the home loop.

    Args:
        profiles: the LM profiles.
        admission: the limits.
        running: the predictions of the process, to ask whether one is still wanted.
        cache: the answers of programs that share them.
    """

    def __init__(
        self, profiles: LMProfiles, admission: RateLimiter, running: CancellationRegistry, cache: AnswerCache
    ) -> None:
        self._profiles = profiles
        self._admission = admission
        self._running = running
        self._cache = cache
        self._circuits: dict[str, Circuit] = {}
        self._dropped: set[tuple[str, str]] = set()
        self._settling = OutageLog(_log, "The limits can't be told what LM calls have used")

    async def __call__(self, call: LMCall) -> Response:
        """Return the answer to a call of the current prediction.

        Raises:
            LMUnavailableError: all tries that the policy allows went wrong, or the next one has to come later.
            LM15Error: a failure that no other try mends.
            DeadlineExceededError, PredictionCancelledError: nobody wants the answer any more.
            LMCallOutsidePredictionError: no prediction is known for the call, or it is over.
        """
        scope = current_prediction()
        if scope is None:
            raise outside()
        if scope.has_ended:
            raise LMCallOutsidePredictionError(f"prediction {scope.task_id} has ended")
        if scope.tally.deferred is not None:
            # The task is given back already; what it asks for now would be paid and thrown away.
            raise fresh_error(scope.tally.deferred)
        with scope.track_call():
            response = await self._answered(scope, call)
        scope.tally.finish_reasons[response.finish_reason] += 1
        scope.tally.last_finish_reason = response.finish_reason
        return response

    async def _answered(self, scope: PredictionContext, call: LMCall) -> Response:
        """Return a shared answer or the provider's; a failure is kept for the case that the program swallows it."""
        try:
            if scope.cache is None:
                return await self._tried(scope, call)
            await self._running.check_wanted(scope)
            return await self._cache.get_or_call(scope, call, lambda: self._tried(scope, call))
        except LMUnavailableError as error:
            if error.again_in_s is None:
                scope.tally.failure = error
            else:
                scope.tally.deferred = error
            raise
        except LM15Error as error:
            endpoint = call.engine.endpoint
            tries = scope.tries + 1
            scope.tally.failure = build_final_error(error, profile=endpoint.profile, model=endpoint.model, tries=tries)
            raise

    # ------------------------------------------------------------------ tries

    async def _tried(self, scope: PredictionContext, call: LMCall) -> Response:
        profile = self._profiles[call.engine.endpoint.profile]
        policy, trouble = effective_retry_policy(profile.retry, scope.snapshot), _Trouble(scope.tries, scope.failing_s)
        while True:
            try:
                return await self._from_any(scope, call, policy)
            except LM15Error as error:
                if not _may_repeat(error, call, policy):
                    raise
                pause = self._pause(scope, call, error, policy, trouble)
            await asyncio.sleep(pause)

    def _pause(
        self, scope: PredictionContext, call: LMCall, error: LM15Error, policy: RetryPolicy, trouble: _Trouble
    ) -> float:
        """Return the pause until the next try here.

        Raises:
            LMUnavailableError: there is none, or not here.
        """
        # Waiting for an LM that is left alone is no try; it costs time alone.
        waits = isinstance(error, CircuitOpenError)
        failing_s = trouble.count(tried=not waits)
        scope.tally.failed_tries += not waits
        endpoint, left = call.engine.endpoint, scope.remaining_s()
        failure = build_unavailable_error(error, profile=endpoint.profile, model=endpoint.model, tries=trouble.tries)
        pause = min(failure.retry_after_s, policy.longest_s) if waits else 0.0
        pause = pause or policy.pause_s(trouble.tries, failure.retry_after_s)
        bound = policy.bound_s(None if left is None else failing_s + left)
        spent = policy.attempts is not None and not waits and trouble.tries >= policy.attempts
        if spent or failing_s + pause >= bound:
            raise failure from error
        # Nothing is lost by waiting elsewhere as long as nothing was answered.
        if pause > policy.in_place_s or (waits and not scope.tally.answered_calls):
            failure.again_in_s, failure.failing_s = pause, failing_s + pause
            raise failure from error
        return pause

    async def _from_any(self, scope: PredictionContext, call: LMCall, policy: RetryPolicy) -> Response:
        """Asks the call's profile, and the fallbacks while that can't answer; raises the profile's own failure."""
        first: LM15Error | None = None
        for engine in self._engines(call):
            try:
                return await self._from_one(scope, call, engine, policy)
            except LM15Error as error:
                if first is None and not _may_repeat(error, call, policy):
                    raise
                first = first or error
                if call.pieces is not None and call.pieces.any:
                    break
        assert first is not None
        raise first

    def _engines(self, call: LMCall) -> Iterator[LMEngine]:
        yield call.engine
        for name in self._profiles[call.engine.endpoint.profile].fallbacks:
            yield self._profiles.engine(name)

    # ------------------------------------------------------------------ one try

    async def _from_one(
        self, scope: PredictionContext, call: LMCall, engine: LMEngine, policy: RetryPolicy
    ) -> Response:
        profile = engine.endpoint.profile
        circuit = self._circuit(profile)
        circuit.acquire()
        try:
            response = await self._admitted(scope, call, engine)
        except LM15Error as error:
            if retryable_kind(error) in _BROKEN:
                circuit.record_failure()
            else:
                circuit.record_success()
            if error.retry_after and retryable_kind(error) is not None:
                await self._told(self._admission.pause(profile, min(error.retry_after, policy.longest_s)))
            raise
        except BaseException:
            circuit.release()
            raise
        circuit.record_success()
        scope.tally.answered_calls[profile] += 1
        return response

    async def _admitted(self, scope: PredictionContext, call: LMCall, engine: LMEngine) -> Response:
        permit = await self._permit(scope, call, engine.endpoint.profile)
        try:
            await self._running.check_wanted(scope)
        except BaseException:
            await self._told(self._admission.give_back(permit))
            raise
        used: Used | None = None
        scope.tally.sent_requests += 1
        try:
            request = call.request
            if engine is not call.engine:
                request = replace(request, model=engine.endpoint.model)
            self._note_dropped(scope, engine.endpoint.model, request)
            if call.pieces is not None:
                call.pieces.void()
            response = await scope.within_deadline(engine.send(request, call.pieces))
            used = _used(response)
        finally:
            await self._told(self._admission.settle(permit, used))
        return response

    def _note_dropped(self, scope: PredictionContext, model: str, request: Request) -> None:
        """Says once, and in the provenance of each result, what a model is asked without."""
        for name in fitting(model, request)[1]:
            scope.tally.dropped[name] = model
            if (model, name) not in self._dropped:
                self._dropped.add((model, name))
                _log.warning("LM '%s' takes no %s, and is asked without it", model, name)

    async def _told(self, telling: Awaitable[None]) -> None:
        """Tells the limits something; what they can't be told now, they find out by themselves, and the answer counts.

        A permit that isn't settled runs out.
        """
        try:
            await telling
        except Exception as exc:  # noqa: BLE001 - what only counts an answer must not cost it
            self._settling.failed(exc)
        else:
            self._settling.recovered()

    async def _permit(self, scope: PredictionContext, call: LMCall, profile: str) -> Permit:
        """What the task was admitted with is its first call's; later calls wait for their own."""
        permit = scope.take_permit()
        if permit is not None:
            if permit.profile == profile:
                return permit
            await self._told(self._admission.give_back(permit))
        return await self._admission.admit(scope, profile, _estimate(call.request))

    def _circuit(self, profile: str) -> Circuit:
        circuit = self._circuits.get(profile)
        if circuit is None:
            circuit = self._circuits[profile] = Circuit(profile, self._profiles[profile].circuit)
        return circuit


class _Trouble:
    """How often one call failed and for how long it is tried again, earlier deliveries of its task included.

    Args:
        tries: tries before this delivery.
        failing_s: seconds of trying again before it.
    """

    def __init__(self, tries: int, failing_s: float) -> None:
        self.tries = tries
        self._before_s = failing_s
        self._since: float | None = None

    def count(self, *, tried: bool) -> float:
        """Count a failure, and a try if one was made; returns the seconds of trying again so far."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        self.tries += tried
        return self._before_s + now - self._since


def _may_repeat(error: LM15Error, call: LMCall, policy: RetryPolicy) -> bool:
    """Whether another try may mend a failure; never once a piece of an answer has gone to the caller."""
    if call.pieces is not None and call.pieces.any:
        return False
    return isinstance(error, CircuitOpenError) or retryable_kind(error) in policy.on


def _estimate(request: Request) -> Estimate:
    system = request.system if isinstance(request.system, str) else "".join(_texts(request.system or ()))
    asked = sum(len(text) for message in request.messages for text in _texts(message.parts))
    return Estimate(len(system) + asked, max_output_tokens=request.config.max_tokens)


def _texts(parts: Iterable[object]) -> Iterator[str]:
    for part in parts:
        text = getattr(part, "text", None)
        if isinstance(text, str):
            yield text


def _used(response: Response) -> Used:
    """What the provider reported, or a guess by the answer's length where it reported nothing."""
    usage = response.usage
    guessed = sum(len(text) for text in _texts(response.message.parts)) // 4
    return Used(usage.input_tokens or 0, guessed if usage.output_tokens is None else usage.output_tokens)
