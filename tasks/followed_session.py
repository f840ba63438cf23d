"""A reserved session that every worker process reads every two seconds, once something needs it."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import Context
from typing import Generic, TypeVar

from snakepit_bridge.exceptions import SessionNotFoundError
from snakepit_bridge.process.aio import OutageLog, cancel_tasks, every, wait_for_event
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.snapshot import Snapshot

T = TypeVar("T")

_REFRESH_S, _FIRST_WAIT_S = 2.0, 1.0

_log = logging.getLogger(__name__)


class FollowedSession(Generic[T]):
    """What a session's variables say, without a round trip for who asks. Lives on the home loop.

    Args:
        store: the sessions.
        session: its name.
        parse: returns what a snapshot says.
        default: what a session without variables says; also before the first read.
        what: its variables, for a warning while they can't be read.
    """

    def __init__(
        self, store: SnapshotStore, session: str, parse: Callable[[Snapshot], T], default: T, *, what: str
    ) -> None:
        self._store = store
        self._session = session
        self._parse = parse
        self._default = self._value = default
        self._what = what
        self._known = asyncio.Event()
        self._waits_until = 0.0
        self._follower: asyncio.Task[None] | None = None

    async def read(self) -> T:
        """Return what the session says; until that is known, calls wait for at most a second after the first one."""
        if self._follower is None:
            outage = OutageLog(_log, f"Can't read the {self._what}")
            # In a context of its own: it outlives the prediction that starts it.
            self._follower = asyncio.get_running_loop().create_task(
                every(_REFRESH_S, self._refresh, outage), name=f"dspex-{self._what}", context=Context()
            )
            self._waits_until = time.monotonic() + _FIRST_WAIT_S
        if not self._known.is_set() and (left_s := self._waits_until - time.monotonic()) > 0:
            await wait_for_event(self._known, left_s)
        return self._value

    async def aclose(self) -> None:
        """Stop following the session."""
        await cancel_tasks(self._follower)

    async def _refresh(self) -> None:
        try:
            self._value = self._parse(await self._store.read(self._session))
        except SessionNotFoundError:
            self._value = self._default
        self._known.set()
