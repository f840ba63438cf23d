"""Runtime: what one worker process keeps open between tasks, and how a task finds it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, Protocol

from celery.states import READY_STATES

from snakepit_bridge.delivery.payloads import Payloads
from snakepit_bridge.lm.profiles import LMProfiles
from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.protocol.json_values import BOUNDS, ValueBounds
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.freshness import FAIL, OutagePolicy
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.cancellation import CancellationRegistry
from tasks.message_lease import MessageLeases
from tasks.quarantine import Suspects
from tasks.rabbitmq_deliveries import Deliveries
from tasks.rate_limits.protocol import RateLimiter, Unlimited
from tasks.response_cache.single_flight import AnswerCache
from tasks.revisions import RevisionBinder
from tasks.sessions import SessionSnapshots


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the tasks of one process share. Built after the fork, never before.

    Attributes:
        sessions: snapshots by requirement.
        registry: programs by reference.
        applying: programs bound to snapshots, and the report of which go together.
        results: the way to the result backend.
        payloads: inputs and results that are too large for a message.
        store: the session's snapshots, to keep those that results came from.
        keep_s: seconds that a result is kept, and its snapshot.
        limits: per LM profile, how many predictions run at a time.
        running: the predictions of the process, which can be cancelled.
        profiles: the LM profiles.
        cache: the answers of programs that share them.
        admission: what grants LM calls, under the limits of the whole fleet.
        suspects: the predictions that are kept apart, since workers died with them.
        batch_room: the places that the inputs of batches have in this process, all of its batches together.
        claims: the claims on the broker's messages; None if the broker isn't reached by our transport.
        deliveries: counts the runs of messages; None if our transport does.
        bounds: how deep and how large an input may be.
        outage: the outage contract of predictions that name none.
        shares_process: whether its tasks share a process, so that a program that executes code has no place here.
    """

    sessions: SessionSnapshots
    registry: ProgramRegistry
    applying: RevisionBinder
    results: RedisConnection
    payloads: Payloads
    store: SnapshotStore
    keep_s: float
    limits: Mapping[str, asyncio.Semaphore]
    running: CancellationRegistry
    profiles: LMProfiles
    cache: AnswerCache
    admission: RateLimiter = field(default_factory=Unlimited)
    suspects: Suspects = field(default_factory=Suspects)
    batch_room: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(2_000))
    claims: MessageLeases | None = None
    deliveries: Deliveries | None = None
    bounds: ValueBounds = BOUNDS
    outage: OutagePolicy = FAIL
    shares_process: bool = False

    async def ended(self, result_key: str) -> bool:
        """Tells whether a task has its final result, which a cancelled or a twice delivered one has before it starts.

        Raises:
            StoreUnavailableError: the result backend is away.
        """
        return is_final(await self.fetch_result(result_key))

    def fetch_result(self, result_key: str) -> Awaitable[bytes | None]:
        """Looks up a task's result, among what else is asked of Redis now; its answer is for :func:`is_end`."""
        return self.results.execute("GET", result_key)

    async def find_finished(self, result_keys: Sequence[str]) -> set[str]:
        """Return those of some tasks, by their result keys, that have their final result.

        Raises:
            StoreUnavailableError: the result backend is away.
        """
        found: Sequence[bytes | None] = await self.results.execute("MGET", *result_keys)
        return {key for key, stored in zip(result_keys, found, strict=True) if is_final(stored)}

    async def keep(self, snapshot: Snapshot) -> None:
        """Keep a result's snapshot for as long as the result, so that the prediction can be made again.

        Raises:
            StoreUnavailableError: the store is away.
        """
        if snapshot.token.revision:  # the default session before its first publish isn't in any store
            await self.store.keep(snapshot, self.keep_s)

    async def aclose(self) -> None:
        """End what runs beside the tasks, and closes the connections of the running event loop."""
        for part in (self.applying, self.admission, self.running, self.sessions.replica, self.store, self.results):
            await part.aclose()
        if self.claims is not None:
            await self.claims.connection.aclose()

    def concurrency_slot(self, profile: str) -> AbstractAsyncContextManager[Any]:
        """Return the place among the profile's predictions that one of them must hold while it runs."""
        return self.limits.get(profile) or nullcontext()


def is_final(stored: bytes | None) -> bool:
    """Tells whether a stored result, or its absence, is how a task ended."""
    return stored is not None and json.loads(stored)["status"] in READY_STATES


class HasRuntime(Protocol):
    """The Celery app, as the tasks see it."""

    @property
    def runtime(self) -> Runtime:
        """This process's runtime, built on first use."""
        ...
