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
from tasks.response_cache.cache_key import digest_of
from tasks.response_cache.store import LEASE_S, AnswerStore, Hit, Lead

# How soon somebody notices that the process which asks has died, once its lease is over.
_LOOK_EVERY_S = 0.5
# A longer answer is shared among those who wait in its process, and not kept.
_LARGEST = 1 << 22

_log = logging.getLogger(__name__)

Ask = Callable[[], Awaitable[Response]]


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
        self.ended: asyncio.Future[Response | None] = asyncio.get_running_loop().create_future()
        self.answer: Response | None = None
        self.told = asyncio.Event()
        self.renewing: asyncio.Task[None] | None = None


class AnswerCache:
    """The answers that the programs of one process share with all others. Lives on the home loop.

    Args:
        store: where they are kept.
        signals: where other processes tell of theirs.
    """

    def __init__(self, store: AnswerStore, signals: Signals) -> None:
        self._store = store
        self._flights: dict[str, SharedCall] = {}
        self._aside: set[asyncio.Task[None]] = set()
        signals.on(store.channel, self._heard, self._resumed)

    async def answered(self, scope: PredictionContext, call: LMCall, ask: Ask) -> Response:
        """Returns the answer to a call: a kept one, somebody's who asks the same now, or the provider's.

        Raises:
            what asking raises.
        """
        wanted = scope.cache
        assert wanted is not None
        digest = digest_of(scope, call, shared=wanted.share == "fleet")
        while True:
            flight = self._flights.get(digest)
            if flight is None:
                return await self._fly(scope, SharedCall(digest, wanted.ttl_s), ask)
            answer = await scope.in_time(share(flight.ended))
            if answer is not None:
                scope.tally.shared += 1
                return _free(answer)

    async def _fly(self, scope: PredictionContext, flight: SharedCall, ask: Ask) -> Response:
        self._flights[flight.digest] = flight
        try:
            kept = await scope.in_time(self._cleared(scope, flight))
            if kept is None:
                flight.answer = await ask()
        except (LM15Error, LMUnavailableError) as error:
            self._end(flight, error)
            raise
        except BaseException:
            self._end(flight, None)
            raise
        if kept is not None:
            self._end(flight, kept)
            return _free(kept)
        assert flight.answer is not None
        scope.unparsed.setdefault(_text(flight.answer), []).append(flight)
        return flight.answer

    async def _cleared(self, scope: PredictionContext, flight: SharedCall) -> Response | None:
        """Returns the kept answer, or None once it is this flight's turn to ask."""
        waited = False
        while True:
            flight.told.clear()
            try:
                claim = await self._store.claim(flight.digest, flight.owner)
            except StoreUnavailableError as away:
                _log.warning("The response cache is away, and calls go to the provider: %s", away)
                return None
            if isinstance(claim, Hit):
                scope.tally.shared += waited
                scope.tally.cached += not waited
                return response_from_dict(json.loads(claim.answer))
            if isinstance(claim, Lead):
                flight.renewing = asyncio.get_running_loop().create_task(self._renew(flight))
                return None
            waited = True
            await _told_within(flight.told, _LOOK_EVERY_S)

    # ------------------------------------------------------------------ ends

    def settle(self, scope: PredictionContext, text: str, *, parsed: bool) -> None:
        """Says what became of an answer: a program has parsed it, or couldn't. From any thread."""
        for flight in scope.unparsed.pop(text, ()):
            home().call_soon_threadsafe(self._end, flight, flight.answer if parsed else None)

    def close(self, scope: PredictionContext, *, succeeded: bool) -> None:
        """Says what became of the answers that no adapter parsed: their program succeeded with them, or failed."""
        for text in list(scope.unparsed):
            self.settle(scope, text, parsed=succeeded)

    def _end(self, flight: SharedCall, end: Response | Exception | None) -> None:
        """Ends a flight for those who wait in this process, and in others."""
        if self._flights.get(flight.digest) is flight:
            del self._flights[flight.digest]
        if not flight.ended.done():
            if isinstance(end, Exception):
                flight.ended.set_exception(fresh_error(end))
                flight.ended.exception()  # mostly nobody waits
            else:
                flight.ended.set_result(end)
        if flight.renewing is not None:
            flight.renewing.cancel()
            self._apart(flight, end if isinstance(end, Response) else None)

    def _apart(self, flight: SharedCall, answer: Response | None) -> None:
        task = asyncio.get_running_loop().create_task(self._told_others(flight, answer))
        self._aside.add(task)
        task.add_done_callback(self._aside.discard)

    async def _told_others(self, flight: SharedCall, answer: Response | None) -> None:
        encoded = json.dumps(response_to_dict(answer)).encode() if answer is not None else b""
        try:
            if answer is None or len(encoded) > _LARGEST:
                await self._store.release(flight.digest, flight.owner)
            else:
                await self._store.keep(flight.digest, flight.owner, encoded, flight.ttl_s)
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

    def _heard(self, digest: str) -> None:
        flight = self._flights.get(digest)
        if flight is not None:
            flight.told.set()

    def _resumed(self) -> None:
        for flight in self._flights.values():
            flight.told.set()


async def _told_within(told: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await told.wait()
    except TimeoutError:
        return


def _free(answer: Response) -> Response:
    """An answer that cost nothing this time."""
    return replace(answer, usage=Usage())


def _text(answer: Response) -> Any:
    return answer.text or ""
