"""What surrounds each LM call of a prediction: is it still wanted, may it go, did it work, and what if not.

still wanted? → for its profile, then the fallbacks: circuit → limits → still wanted? → send → settle
              → failed in a way that another try may mend: a short pause here, a long one in the broker
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from dataclasses import replace

from dspy.lm15 import LM15Error, Request, Response

from snakepit_bridge.lm import LMProfiles
from snakepit_bridge.lm_engine import LMCall, LMEngine
from snakepit_bridge.retry import RetryPolicy
from tasks.breaker import Circuit, CircuitOpen
from tasks.cache.flights import AnswerCache
from tasks.errors import kind_of, unavailable
from tasks.limits.contract import Admission, Estimate, Permit, Used
from tasks.policy import retry_policy
from tasks.running import Running
from tasks.scope import Scope, current

_BROKEN = frozenset({"server", "timeout", "transport"})


class LMCalls:
    """The gate that every LM call of a process goes through. Lives on the home loop.

    Args:
        profiles: the LM profiles.
        admission: the limits.
        running: the predictions of the process, to ask whether one is still wanted.
        cache: the answers of programs that share them.
    """

    def __init__(self, profiles: LMProfiles, admission: Admission, running: Running, cache: AnswerCache) -> None:
        self._profiles = profiles
        self._admission = admission
        self._running = running
        self._cache = cache
        self._circuits: dict[str, Circuit] = {}

    async def __call__(self, call: LMCall) -> Response:
        """Returns the answer to a call of the current prediction; one outside of any is sent as it is.

        Raises:
            LMUnavailableError: all tries that the policy allows went wrong, or the next one has to come later.
            LM15Error: a failure that no other try mends.
            DeadlineExceeded, PredictionCancelled: nobody wants the answer any more.
        """
        scope = current()
        if scope is None:
            return await call.engine.send(call.request, call.pieces)
        with scope.calling():
            if scope.cache is None:
                return await self._tried(scope, call)
            await self._running.refuse_ended(scope)
            return await self._cache.answered(scope, call, lambda: self._tried(scope, call))

    # ------------------------------------------------------------------ tries

    async def _tried(self, scope: Scope, call: LMCall) -> Response:
        profile = self._profiles[call.engine.endpoint.profile]
        policy, tries = retry_policy(profile.retry, scope.snapshot), scope.tries
        while True:
            try:
                return await self._from_any(scope, call, policy)
            except LM15Error as error:
                if not _may_repeat(error, call, policy):
                    raise
                tries += 1
                pause = self._pause(scope, call, error, policy, tries)
            await asyncio.sleep(pause)

    def _pause(self, scope: Scope, call: LMCall, error: LM15Error, policy: RetryPolicy, tries: int) -> float:
        """Returns the pause until the next try here.

        Raises:
            LMUnavailableError: there is none, or not here.
        """
        scope.tally.failed += 1
        endpoint, left = call.engine.endpoint, scope.left_s()
        failure = unavailable(error, profile=endpoint.profile, model=endpoint.model, tries=tries)
        pause = policy.pause_s(tries, failure.retry_after_s)
        if tries >= policy.attempts or (left is not None and pause >= left):
            raise failure from error
        if pause > policy.in_place_s:
            failure.again_in_s = pause
            raise failure from error
        return pause

    async def _from_any(self, scope: Scope, call: LMCall, policy: RetryPolicy) -> Response:
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

    async def _from_one(self, scope: Scope, call: LMCall, engine: LMEngine, policy: RetryPolicy) -> Response:
        profile = engine.endpoint.profile
        circuit = self._circuit(profile)
        circuit.enter()
        try:
            response = await self._admitted(scope, call, engine)
        except LM15Error as error:
            if kind_of(error) in _BROKEN:
                circuit.failed()
            else:
                circuit.succeeded()
            if error.retry_after and kind_of(error) is not None:
                await self._admission.pause(profile, min(error.retry_after, policy.longest_s))
            raise
        except BaseException:
            circuit.left()
            raise
        circuit.succeeded()
        scope.tally.answered[profile] += 1
        return response

    async def _admitted(self, scope: Scope, call: LMCall, engine: LMEngine) -> Response:
        permit = await self._permit(scope, call, engine.endpoint.profile)
        try:
            await self._running.refuse_ended(scope)
        except BaseException:
            await self._admission.give_back(permit)
            raise
        used: Used | None = None
        scope.tally.sent += 1
        try:
            request = call.request
            if engine is not call.engine:
                request = replace(request, model=engine.endpoint.model)
            response = await scope.in_time(engine.send(request, call.pieces))
            used = _used(response)
        finally:
            await self._admission.settle(permit, used)
        return response

    async def _permit(self, scope: Scope, call: LMCall, profile: str) -> Permit:
        """What the task was admitted with is its first call's; later calls wait for their own."""
        permit = scope.take_permit()
        if permit is not None:
            if permit.profile == profile:
                return permit
            await self._admission.give_back(permit)
        return await self._admission.admit(scope, profile, _estimate(call.request))

    def _circuit(self, profile: str) -> Circuit:
        circuit = self._circuits.get(profile)
        if circuit is None:
            circuit = self._circuits[profile] = Circuit(profile, self._profiles[profile].circuit)
        return circuit


def _may_repeat(error: LM15Error, call: LMCall, policy: RetryPolicy) -> bool:
    """Whether another try may mend a failure; never once a piece of an answer has gone to the caller."""
    if call.pieces is not None and call.pieces.any:
        return False
    return isinstance(error, CircuitOpen) or kind_of(error) in policy.on


def _estimate(request: Request) -> Estimate:
    system = request.system if isinstance(request.system, str) else "".join(_texts(request.system or ()))
    asked = sum(len(text) for message in request.messages for text in _texts(message.parts))
    return Estimate(len(system) + asked, most_output=request.config.max_tokens)


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
