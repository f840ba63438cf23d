"""Single flight: of all who ask the same at a time, over all processes, one asks the provider.

In a process the first one flies, and the others wait for it. Among processes the first one holds a lease, renewed until
the answer has been parsed, and the others wait until it ends: with an answer, or without one, and then another leads.
An answer is shared only once a program could parse it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any
from uuid import uuid4

from dspy._vendor.lm15.serde import response_from_dict, response_to_dict
from dspy.lm15 import LM15Error, Response, Usage

from snakepit_bridge.exceptions import LMUnavailableError, StoreUnavailableError, fresh_error
from snakepit_bridge.lm.engine import LMCall
from snakepit_bridge.process.home_loop import home, share
from tasks.notifications import Signals
from tasks.prediction_context import PredictionContext
from tasks.response_cache.cache_key import cache_key
from tasks.response_cache.store import LEASE_S, AnswerStore, Hit, Lead

# How soon somebody notices that the process which asks has died, once its lease is over.
_POLL_INTERVAL_S = 0.5
# A longer answer is shared among those who wait in its process, and not kept.
_MAX_BYTES = 1 << 22

_log = logging.getLogger(__name__)

CallProvider = Callable[[], Awaitable[Response]]


class SharedCall:
    """One call under way, and who in this process waits for it.

    Attributes:
        digest: the call.
        owner: under which name it holds the lease.
        ended: its answer once that is parsed; None if there is none, and an error that all of them would get.
        ttl_s: seconds that its answer is kept.
        answer: its answer before that.
        told: set when something has changed for those who wait in other processes.
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
    """The answers that the programs of one process share with all others. Lives on the home loop.

    Args:
        store: where they are kept.
        signals: where other processes tell of theirs.
    """

    def __init__(self, store: AnswerStore, signals: Signals) -> None:
        self._store = store
        self._calls: dict[str, SharedCall] = {}
        self._spawned: set[asyncio.Task[None]] = set()
        signals.subscribe(store.channel, self._on_answered, self._on_reconnect)

    async def get_or_call(self, scope: PredictionContext, call: LMCall, call_provider: CallProvider) -> Response:
        """Return the answer to a call: a kept one, somebody's who asks the same now, or the provider's.

        Raises:
            what asking raises.
        """
        wanted = scope.cache
        assert wanted is not None
        digest = cache_key(scope, call, across_sessions=wanted.share == "fleet")
        while True:
            flight = self._calls.get(digest)
            if flight is None:
                return await self._lead(scope, SharedCall(digest, wanted.ttl_s), call_provider)
            answer = await scope.within_deadline(share(flight.result))
            if answer is not None:
                scope.tally.shared_answers += 1
                return _without_usage(answer)

    async def _lead(self, scope: PredictionContext, flight: SharedCall, call_provider: CallProvider) -> Response:
        self._calls[flight.digest] = flight
        try:
            kept = await scope.within_deadline(self._claim_or_wait(scope, flight))
            if kept is None:
                flight.answer = await call_provider()
        except (LM15Error, LMUnavailableError) as error:
            self._complete(flight, error)
            raise
        except BaseException:
            self._complete(flight, None)
            raise
        if kept is not None:
            self._complete(flight, kept)
            return _without_usage(kept)
        assert flight.answer is not None
        scope.unparsed.setdefault(_text(flight.answer), []).append(flight)
        return flight.answer

    async def _claim_or_wait(self, scope: PredictionContext, flight: SharedCall) -> Response | None:
        """Return the kept answer, or None once it is this flight's turn to ask."""
        waited = False
        while True:
            flight.changed.clear()
            try:
                claim = await self._store.claim(flight.digest, flight.owner)
            except StoreUnavailableError as away:
                _log.warning("The response cache is away, and calls go to the provider: %s", away)
                return None
            if isinstance(claim, Hit):
                scope.tally.shared_answers += waited
                scope.tally.cache_hits += not waited
                return response_from_dict(json.loads(claim.answer))
            if isinstance(claim, Lead):
                flight.renewal = asyncio.get_running_loop().create_task(self._renew(flight))
                return None
            waited = True
            await _wait_for_event(flight.changed, _POLL_INTERVAL_S)

    # ------------------------------------------------------------------ ends

    def resolve(self, scope: PredictionContext, text: str, *, parsed: bool) -> None:
        """Says what became of an answer: a program has parsed it, or couldn't. From any thread."""
        for flight in scope.unparsed.pop(text, ()):
            home().call_soon_threadsafe(self._complete, flight, flight.answer if parsed else None)

    def finish(self, scope: PredictionContext, *, succeeded: bool) -> None:
        """Says what became of the answers that no adapter parsed: their program succeeded with them, or failed."""
        for text in list(scope.unparsed):
            self.resolve(scope, text, parsed=succeeded)

    def _complete(self, flight: SharedCall, end: Response | Exception | None) -> None:
        """End a flight for those who wait in this process, and in others."""
        if self._calls.get(flight.digest) is flight:
            del self._calls[flight.digest]
        if not flight.result.done():
            if isinstance(end, Exception):
                flight.result.set_exception(fresh_error(end))
                flight.result.exception()  # mostly nobody waits
            else:
                flight.result.set_result(end)
        if flight.renewal is not None:
            flight.renewal.cancel()
            self._spawn(flight, end if isinstance(end, Response) else None)

    def _spawn(self, flight: SharedCall, answer: Response | None) -> None:
        task = asyncio.get_running_loop().create_task(self._announce(flight, answer))
        self._spawned.add(task)
        task.add_done_callback(self._spawned.discard)

    async def _announce(self, flight: SharedCall, answer: Response | None) -> None:
        encoded = json.dumps(response_to_dict(answer)).encode() if answer is not None else b""
        try:
            if answer is None or len(encoded) > _MAX_BYTES:
                await self._store.release(flight.digest, flight.owner)
            else:
                await self._store.save(flight.digest, flight.owner, encoded, flight.ttl_s)
        except StoreUnavailableError as away:
            _log.warning("An answer isn't kept, and its lease ends by itself: %s", away)

    async def _renew(self, flight: SharedCall) -> None:
        while True:
            await asyncio.sleep(LEASE_S / 4)
            try:
                await self._store.claim(flight.digest, flight.owner)
            except StoreUnavailableError as away:
                _log.warning("The lease on an answer isn't renewed: %s", away)

    # ------------------------------------------------------------------ signals

    def _on_answered(self, digest: str) -> None:
        flight = self._calls.get(digest)
        if flight is not None:
            flight.changed.set()

    def _on_reconnect(self) -> None:
        for flight in self._calls.values():
            flight.changed.set()


async def _wait_for_event(told: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await told.wait()
    except TimeoutError:
        return


def _without_usage(answer: Response) -> Response:
    """An answer that cost nothing this time."""
    return replace(answer, usage=Usage())


def _text(answer: Response) -> Any:
    return answer.text or ""
