"""Admission under the limits of the whole fleet: what a call costs, whether it may be made, and what it really took."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar
from uuid import uuid4

from snakepit_bridge.exceptions import DeadlineExceededError, StoreUnavailableError
from snakepit_bridge.redis.outages import through_outages
from tasks.rate_limits.estimates import Estimates
from tasks.rate_limits.leases import LimitLeases
from tasks.rate_limits.protocol import Caller, Estimate, Parked, Permit, Used
from tasks.rate_limits.rules import Price
from tasks.rate_limits.store import Costs, Granted, LimitRefusal

Answer = TypeVar("Answer")

_LONGEST_WAIT_S = 0.5
# A task that waits in its process is told when it is its turn; that it asks again is for the hint that got lost.
_ASK_AGAIN_S = 5.0
_NOTHING = Costs(0.0, 0.0)


class FleetAdmission:
    """Grants calls under limits that hold over all workers together. Lives on the home loop.

    Args:
        presence: this process's part in the limits.
        prices: what each profile's tokens cost.
    """

    def __init__(self, presence: LimitLeases, prices: Mapping[str, Price]) -> None:
        self._presence = presence
        self._store = presence.store
        self._prices = prices
        self._estimates = Estimates()

    async def begin(self) -> None:
        """See ``Admission.begin``."""
        await self._presence.begin()

    async def aclose(self) -> None:
        """See ``Admission.aclose``."""
        await self._presence.aclose()

    async def before_start(self, caller: Caller, profile: str, estimate: Estimate) -> Permit | Parked:
        """See ``Admission.before_start``."""
        await through_outages(self._presence.begin, deadline=caller.deadline)
        _refuse_late(caller)
        if self._presence.concerning(profile, caller.session, caller.snapshot) is None:
            return Permit(profile)
        call = _Call(caller, profile, estimate, uuid4().hex, self._costs(caller.program, profile, estimate))
        if self._store.claim_of(caller):
            return await self._asked_to_start(call)
        return await self._in_place(call)

    async def _in_place(self, call: _Call) -> Permit:
        """Waits in the session's lane, like a task that is parked, but here."""
        with self._presence.turn(call.caller.task_id) as turn:
            try:
                while isinstance(answer := await self._asked_to_start(call), Parked):
                    await _first_of(turn, _bounded(_ASK_AGAIN_S, call.caller.deadline))
                    turn.clear()
                    _refuse_late(call.caller)
            except (asyncio.CancelledError, DeadlineExceededError):
                self._presence.apart(self._store.leave(call.caller.task_id))
                raise
        return answer

    async def _asked_to_start(self, call: _Call) -> Permit | Parked:
        """Returns leave for a task's first call, or word that it stands in its lane."""
        caller, profile = call.caller, call.profile
        buckets = self._presence.concerning(profile, caller.session, caller.snapshot) or ()
        answer = await self._asked(
            call, lambda: self._store.start(caller, call.permit, profile, call.costs, buckets, self._presence.ready)
        )
        if isinstance(answer, Granted):
            return self._granted(call, answer.costs)
        return Parked(profile, answer.wait_s if isinstance(answer, LimitRefusal) else 0.0)

    async def admit(self, caller: Caller, profile: str, estimate: Estimate) -> Permit:
        """See ``Admission.admit``."""
        await through_outages(self._presence.begin, deadline=caller.deadline)
        _refuse_late(caller)
        if self._presence.concerning(profile, caller.session, caller.snapshot) is None:
            return Permit(profile)
        call = _Call(caller, profile, estimate, uuid4().hex, self._costs(caller.program, profile, estimate))
        try:
            while isinstance(answer := await self._asked_to_call(call), LimitRefusal):
                await asyncio.sleep(_pause_s(answer, caller.deadline))
                _refuse_late(caller)
        except (asyncio.CancelledError, DeadlineExceededError):
            self._presence.apart(self._store.stop_waiting(call.permit, profile))
            raise
        return answer

    async def _asked_to_call(self, call: _Call) -> Permit | LimitRefusal:
        buckets = self._presence.concerning(call.profile, call.caller.session, call.caller.snapshot) or ()
        answer = await self._asked(call, lambda: self._store.admit(call.permit, call.profile, call.costs, buckets))
        return self._granted(call, answer.costs) if isinstance(answer, Granted) else answer

    async def settle(self, permit: Permit, used: Used | None) -> None:
        """See ``Admission.settle``."""
        if not permit.id:
            return
        if used is None:
            await self._presence.end(permit.id, _NOTHING, requests=1)
            return
        self._estimates.learn(permit.program, permit.estimate, used)
        spend = self._price(permit.profile).of(used.input_tokens, used.output_tokens)
        real = Costs(float(used.input_tokens + used.output_tokens), spend)
        await self._presence.end(permit.id, real, requests=1)

    async def give_back(self, permit: Permit) -> None:
        """See ``Admission.give_back``."""
        await self._presence.end(permit.id, _NOTHING, requests=0)

    async def forget(self, task_id: str) -> None:
        """See ``Admission.forget``."""
        self._presence.apart(self._store.leave(task_id))

    async def pause(self, profile: str, seconds: float) -> None:
        """See ``Admission.pause``."""
        self._presence.pause_here(profile, seconds)
        await self._store.pause(profile, seconds)

    def _price(self, profile: str) -> Price:
        return self._prices.get(profile, _FREE)

    def _costs(self, program: str, profile: str, estimate: Estimate) -> Costs:
        given, answered = self._estimates.tokens(program, estimate)
        return Costs(given + answered, self._price(profile).of(given, answered))

    def _granted(self, call: _Call, costs: Costs) -> Permit:
        self._presence.hold(call.permit)
        return Permit(call.profile, call.permit, call.caller.program, call.estimate, costs.tokens, costs.spend)

    async def _asked(self, call: _Call, ask: Callable[[], Coroutine[Any, Any, Answer]]) -> Answer:
        """Await an answer, through outages; if nobody will take it any more, what it grants is given back."""
        try:
            return await through_outages(ask, deadline=call.caller.deadline)
        except (asyncio.CancelledError, StoreUnavailableError):
            # An answer that was lost may have granted it.
            self._presence.apart(self._store.settle(call.permit, _NOTHING, requests=0))
            raise


_FREE = Price()


@dataclass(frozen=True, slots=True)
class _Call:
    """A call, which is asked for until it is granted."""

    caller: Caller
    profile: str
    estimate: Estimate
    permit: str
    costs: Costs


async def _first_of(event: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await event.wait()
    except TimeoutError:
        return


def _refuse_late(caller: Caller) -> None:
    if caller.deadline is not None and time.time() >= caller.deadline:
        raise DeadlineExceededError(caller.task_id, round(time.time() - caller.deadline, 3))


def _pause_s(refused: LimitRefusal, deadline: float | None) -> float:
    """Not longer than a changed limit may take to be noticed; the jitter parts those who wait."""
    return _bounded(min(refused.wait_s * random.uniform(1.0, 1.1), _LONGEST_WAIT_S), deadline)


def _bounded(wait_s: float, deadline: float | None) -> float:
    return wait_s if deadline is None else max(0.0, min(wait_s, deadline - time.time()))
