"""Runtime: what one worker process keeps open between tasks, and how a task finds it."""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Protocol, cast

from celery.states import READY_STATES

from snakepit_bridge.exceptions import RevisionNotReached, SessionNotFoundError
from snakepit_bridge.messages import DEFAULT_SESSION, Requirement
from snakepit_bridge.programs.bound import BoundPrograms
from snakepit_bridge.programs.registry import ProgramRegistry
from snakepit_bridge.revision import Token
from snakepit_bridge.snapshot import Snapshot
from snakepit_bridge.stores import SnapshotStore
from snakepit_bridge.stores.connection import RedisConnection

_SESSIONS = 10_000
_POLL_S = 0.02


class Sessions:
    """The newest snapshot of each session that this process has read.

    A read costs one round trip, and no more than a head's worth of bytes where nothing changed.

    Args:
        store: where the snapshots are.
        wait_s: seconds to wait for a revision that isn't there yet.
    """

    def __init__(self, store: SnapshotStore, wait_s: float) -> None:
        self._store = store
        self._wait_s = wait_s
        self._read: OrderedDict[str, Snapshot] = OrderedDict()

    async def snapshot(self, session: str, requirement: Requirement) -> Snapshot:
        """Returns a snapshot that meets the requirement.

        The default session needs no publish: it is empty until its first one.

        Raises:
            SessionNotFoundError: nobody has published the session.
            RevisionNotReached: it did not come to the required token within the wait.
            RevisionLost: the required token was trimmed or lost.
            StoreUnavailableError: the store is away.
        """
        try:
            match requirement.kind:
                case "latest":
                    return await self._newest(session)
                case "exactly":
                    return await self._store.read_at(session, cast(Token, requirement.token))
                case "at_least":
                    return await self._at_least(session, cast(Token, requirement.token))
        except SessionNotFoundError:
            if session == DEFAULT_SESSION and requirement.kind == "latest":
                return Snapshot(session, Token(0, 0), {}, 0.0)
            raise

    async def _newest(self, session: str) -> Snapshot:
        snapshot = await self._store.read(session, self._read.get(session))
        kept = self._read.get(session)
        # Concurrent reads may return out of order; a process never goes back to an older revision.
        if kept is not None and snapshot.token < kept.token:
            return kept
        self._read[session] = snapshot
        self._read.move_to_end(session)
        if len(self._read) > _SESSIONS:
            self._read.popitem(last=False)
        return snapshot

    async def _at_least(self, session: str, token: Token) -> Snapshot:
        loop = asyncio.get_running_loop()
        start = loop.time()
        while True:
            snapshot = await self._newest(session)
            if snapshot.meets(token):
                return snapshot
            waited = loop.time() - start
            if waited >= self._wait_s:
                raise RevisionNotReached(session, str(token), str(snapshot.token), round(waited, 3))
            await asyncio.sleep(_POLL_S)


@dataclass(frozen=True, slots=True)
class Runtime:
    """What the tasks of one process share. Built after the fork, never before.

    Attributes:
        sessions: snapshots by requirement.
        registry: programs by reference.
        programs: bound programs by content.
        results: the way to the result backend.
        limits: per LM profile, how many predictions run at a time.
        attempts: tries of a prediction whose LM is unavailable.
        backoff_s: seconds before the second try.
    """

    sessions: Sessions
    registry: ProgramRegistry
    programs: BoundPrograms
    results: RedisConnection
    limits: Mapping[str, asyncio.Semaphore]
    attempts: int
    backoff_s: float

    async def ended(self, result_key: str) -> bool:
        """Tells whether a task has its final result, which a cancelled or a twice delivered one has before it starts.

        Raises:
            StoreUnavailableError: the result backend is away.
        """
        stored = await self.results.bounded(self.results.client.get(result_key))
        return stored is not None and json.loads(stored)["status"] in READY_STATES

    def room(self, profile: str) -> AbstractAsyncContextManager[Any]:
        """Returns the place among the profile's predictions that one of them must hold while it runs."""
        return self.limits.get(profile) or nullcontext()


class HasRuntime(Protocol):
    """The Celery app, as the tasks see it."""

    @property
    def runtime(self) -> Runtime:
        """This process's runtime, built on first use."""
        ...
