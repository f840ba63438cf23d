"""Single flight: of all concurrent identical calls, over all processes, one goes to the provider.

In a process the first call leads and the others await it. Among processes the leader holds a lease, renewed until the
answer has been parsed; the others wait until it ends, with an answer, or without one, and then another call leads. An
answer is shared only once a program has parsed it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any
from uuid import uuid4

from dspy.lm15 import LM15Error, Response, Usage

from snakepit_bridge.exceptions import DecryptionError, LMUnavailableError, StoreUnavailableError, copy_error
from snakepit_bridge.lm.compat import response_from_dict, response_to_dict
from snakepit_bridge.lm.engine import LMCall
from snakepit_bridge.process.aio import BackgroundTasks, OutageLog, every, wait_for_event
from snakepit_bridge.process.home_loop import get_home_loop, share_future
from snakepit_bridge.redis.pubsub import Subscription, text_handler
from tasks.prediction_context import PredictionContext
from tasks.response_cache.cache_key import cache_key
from tasks.response_cache.store import LEASE_S, AnswerStore, Hit, Lead
from tasks.telemetry import record_cached_answer

# How often waiters poll, to notice that the lease of a crashed leader has expired.
_POLL_INTERVAL_S = 0.5
# A longer answer is shared within its process only.
_MAX_BYTES = 1 << 22

_log = logging.getLogger(__name__)

CallProvider = Callable[[], Awaitable[Response]]


class SharedCall:
    """A call in flight that other calls of this process may await.

    Attributes:
        digest: the cache key.
        owner: the lease token.
        result: the answer once it is parsed, None if there is none; or an error that all waiters get.
        ttl_s: seconds for which the answer is cached.
        answer: the answer before it is parsed.
        changed: set when the lease or the answer may have changed in Redis.
        renewal: the task that renews the lease.
    """

    def __init__(self, digest: str, ttl_s: int) -> None:
        self.digest = digest
        self.owner = uuid4().hex
        self.ttl_s = ttl_s
        self.result: asyncio.Future[Response | None] = asyncio.get_running_loop().create_future()
        self.answer: Response | None = None
        self.changed = asyncio.Event()
        self.renewal: asyncio.Task[None] | None = None


class AnswerCache:
    """The response cache of one process. Lives on the home loop.

    Args:
        store: the answers in Redis.
        signals: the subscription that ended leases arrive on.
    """

    def __init__(self, store: AnswerStore, signals: Subscription) -> None:
        self._store = store
        self._calls: dict[str, SharedCall] = {}
        self._spawned = BackgroundTasks()
        signals.register(store.channel, text_handler(self._on_answered, self._on_reconnect))

    async def get_or_call(self, scope: PredictionContext, call: LMCall, call_provider: CallProvider) -> Response:
        """Return the answer to a call: a cached one, the one of an identical call in flight, or the provider's.

        Raises:
            LM15Error, LMUnavailableError: the provider call failed.
        """
        spec = scope.cache
        assert spec is not None
        digest = cache_key(scope, call, across_sessions=spec.share == "fleet")
        while True:
            flight = self._calls.get(digest)
            if flight is None:
                return await self._lead(scope, SharedCall(digest, spec.ttl_s), call_provider)
            answer = await scope.within_deadline(share_future(flight.result))
            if answer is not None:
                scope.tally.shared_answers += 1
                record_cached_answer(scope.program, shared=True)
                return _without_usage(answer)

    async def _lead(self, scope: PredictionContext, flight: SharedCall, call_provider: CallProvider) -> Response:
        self._calls[flight.digest] = flight
        try:
            cached = await scope.within_deadline(self._claim_or_wait(scope, flight))
            if cached is None:
                flight.answer = await call_provider()
        except (LM15Error, LMUnavailableError) as exc:
            self._complete(flight, exc)
            raise
        except BaseException:
            self._complete(flight, None)
            raise
        if cached is not None:
            self._complete(flight, cached)
            return _without_usage(cached)
        assert flight.answer is not None
        scope.unparsed.setdefault(_text(flight.answer), []).append(flight)
        return flight.answer

    async def _claim_or_wait(self, scope: PredictionContext, flight: SharedCall) -> Response | None:
        """Return the cached answer, or None once this call leads."""
        waited = False
        while True:
            flight.changed.clear()
            try:
                claim = await self._store.claim(flight.digest, flight.owner)
            except (StoreUnavailableError, DecryptionError) as exc:
                _log.warning("Response cache unavailable; calling the provider: %s", exc)
                return None
            if isinstance(claim, Hit):
                scope.tally.shared_answers += waited
                scope.tally.cache_hits += not waited
                record_cached_answer(scope.program, shared=waited)
                return response_from_dict(json.loads(claim.answer))
            if isinstance(claim, Lead):
                flight.renewal = asyncio.get_running_loop().create_task(self._renew(flight))
                return None
            waited = True
            await wait_for_event(flight.changed, _POLL_INTERVAL_S)

    # ------------------------------------------------------------------ completion

    def resolve(self, scope: PredictionContext, text: str, *, parsed: bool) -> None:
        """Report whether a program parsed an answer. Call from any thread."""
        for flight in scope.unparsed.pop(text, ()):
            get_home_loop().call_soon_threadsafe(self._complete, flight, flight.answer if parsed else None)

    def replace_answers(self, scope: PredictionContext, answers: Sequence[Response], response: Response | None) -> None:
        """Follow what middleware makes of answers. Call on the home loop.

        Args:
            scope: the prediction.
            answers: what the calls of one LM call were answered with, in their order.
            response: what the program gets: one of them, or one made of the last; None if the middleware raised. The
                others are never parsed.
        """
        chosen = next((answer for answer in answers if answer is response), None)
        source = answers[-1] if chosen is None and answers and response is not None else chosen
        for answer in answers:
            if answer is chosen or (flight := _take_unparsed(scope, answer)) is None:
                continue
            if answer is source and response is not None:
                scope.unparsed.setdefault(_text(response), []).append(flight)
            else:
                self._complete(flight, None)

    def finish(self, scope: PredictionContext, *, succeeded: bool) -> None:
        """Resolve the answers that no adapter parsed by whether their program succeeded."""
        for text in list(scope.unparsed):
            self.resolve(scope, text, parsed=succeeded)

    def _complete(self, flight: SharedCall, outcome: Response | Exception | None) -> None:
        """Complete a call for its waiters in this process and in others."""
        if self._calls.get(flight.digest) is flight:
            del self._calls[flight.digest]
        if not flight.result.done():
            if isinstance(outcome, Exception):
                flight.result.set_exception(copy_error(outcome))
                flight.result.exception()  # mark it as retrieved: mostly there are no waiters
            else:
                flight.result.set_result(outcome)
        if flight.renewal is not None:
            flight.renewal.cancel()
            self._spawned.spawn(self._announce(flight, outcome if isinstance(outcome, Response) else None))

    async def _announce(self, flight: SharedCall, answer: Response | None) -> None:
        encoded = json.dumps(response_to_dict(answer)).encode() if answer is not None else b""
        try:
            if answer is None or len(encoded) > _MAX_BYTES:
                await self._store.release(flight.digest, flight.owner)
            else:
                await self._store.save(flight.digest, flight.owner, encoded, flight.ttl_s)
        except StoreUnavailableError as exc:
            _log.warning("Can't cache an answer; its lease will expire: %s", exc)

    async def _renew(self, flight: SharedCall) -> None:
        renew = partial(self._store.claim, flight.digest, flight.owner)
        await every(LEASE_S / 4, renew, OutageLog(_log, "Can't renew the lease on an answer"), at_once=False)

    # ------------------------------------------------------------------ notifications

    def _on_answered(self, digest: str) -> None:
        flight = self._calls.get(digest)
        if flight is not None:
            flight.changed.set()

    def _on_reconnect(self) -> None:
        for flight in self._calls.values():
            flight.changed.set()


def _without_usage(answer: Response) -> Response:
    """Return the answer without its usage: it cost nothing this time."""
    return replace(answer, usage=Usage())


def _take_unparsed(scope: PredictionContext, answer: Response) -> SharedCall | None:
    """Remove and return the call that led to an answer; None if the answer was cached, or is resolved already."""
    flights: list[SharedCall] = scope.unparsed.get(_text(answer), [])
    found = next((flight for flight in flights if flight.answer is answer), None)
    if found is not None:
        flights.remove(found)
    return found


def _text(answer: Response) -> Any:
    return answer.text or ""
