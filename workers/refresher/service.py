"""The refresher itself: it keeps as many followers as are its share, and ends them when they aren't any more."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import Set as AbstractSet
from uuid import uuid4

from snakepit_bridge.elixir.client import BridgeClient
from snakepit_bridge.elixir.demand import WantedSessions
from snakepit_bridge.elixir.errors import ElixirUnavailableError
from snakepit_bridge.exceptions import BridgeError, SessionNotFoundError, StoreUnavailableError
from snakepit_bridge.process.open_files import raise_open_file_limit
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.acl import Role
from snakepit_bridge.redis.acl_check import check_role
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.snapshots import RedisStore, SnapshotStore
from workers.refresher.assignment import SessionAssignment
from workers.refresher.confirmations import PendingConfirmations
from workers.refresher.follower import FollowerContext, SessionFollower
from workers.refresher.leases import RefresherLeases
from workers.refresher.outage_bound import CONFIRM_INTERVAL_S, TICK_INTERVAL_S
from workers.refresher.session_status import SessionStatus
from workers.refresher.settings import RefresherSettings
from workers.refresher.store_clock import StoreClock
from workers.refresher.watcher import WatchSupport

_log = logging.getLogger(__name__)

# Workers report what they use about every ten seconds.
_IN_USE_WINDOW_S = 30.0


class Refresher:
    """One refresher. It belongs to the event loop that it runs on.

    Args:
        settings: what it is told.
        name: its name among the others; one is made up by default. A process that is started under the name of one
            which has ended goes on with its sessions at once.
        store: where snapshots are kept, the store of the settings by default.
    """

    def __init__(self, settings: RefresherSettings, *, name: str = "", store: SnapshotStore | None = None) -> None:
        self.name = name or f"{socket.gethostname()}-{os.getpid()}-{uuid4().hex[:8]}"
        self._settings = settings
        connection = RedisConnection(settings.redis_url, timeout_s=settings.redis_timeout_s)
        self._connection = connection
        self._store = store or RedisStore(
            settings.redis_url, namespace=settings.namespace, timeout_s=settings.redis_timeout_s
        )
        self._client = BridgeClient(
            settings.bridge, timeout_s=settings.timeout_s, max_answer_bytes=settings.max_answer_bytes
        )
        self._wanted = WantedSessions(connection, namespace=settings.namespace, idle_s=settings.idle_s)
        self._leases = RefresherLeases(connection, settings.namespace, self.name, settings.lease_s)
        self._assignment = SessionAssignment(self._leases, settings.lease_s / 3)
        self._context = FollowerContext(
            settings,
            self._client,
            self._store,
            StoreClock(connection),
            PendingConfirmations(self._store, settings.authority),
            WatchSupport(enabled=settings.watch, retry_s=settings.watch_retry_s),
            asyncio.Semaphore(settings.looks_at_once),
            f"refresher {self.name}",
        )
        self._followers: dict[str, tuple[SessionFollower, asyncio.Task[None]]] = {}
        self._idle_s: dict[str, float] = {}
        self._store_unavailable = self._elixir_unavailable = False
        self._ping: asyncio.Task[None] | None = None

    def statuses(self) -> dict[str, SessionStatus]:
        """Returns how each session stands that this refresher follows."""
        return {session: follower.status for session, (follower, _) in sorted(self._followers.items())}

    async def sync(self, session: str) -> Token:
        """Returns the token of the first look that begins after the call: what was true in Elixir before it, is in it.

        Raises:
            SessionNotFoundError: this refresher doesn't follow the session.
        """
        found = self._followers.get(session)
        if found is None:
            raise SessionNotFoundError(session)
        return await found[0].sync()

    async def run(self, stop: asyncio.Event) -> None:
        """Follows until ``stop`` is set, then gives its sessions back."""
        confirming = asyncio.create_task(self._send_confirmations())
        try:
            while not stop.is_set():
                await self._tick_or_log()
                await _wait_for_event(stop, min(TICK_INTERVAL_S, self._settings.lease_s / 3))
        finally:
            confirming.cancel()
            await asyncio.gather(confirming, return_exceptions=True)
            await self._shut_down()

    async def _tick_or_log(self) -> None:
        try:
            await self._tick()
        except StoreUnavailableError as exc:
            if not self._store_unavailable:
                _log.warning("%s Sessions are not shared out until it is back.", exc)
            self._store_unavailable = True
        else:
            self._store_unavailable = False

    async def _tick(self) -> None:
        await self._context.clock.sync()
        self._idle_s = await self._wanted.idle_times()
        if not await self._check_elixir():
            return  # its leases end, so that a refresher which does reach Elixir takes over
        mine = await self._assignment.rebalance({*self._settings.sessions, *self._idle_s})
        others = self._assignment.held - mine
        await self._stop(others | (self._followers.keys() - mine))
        self._assignment.held |= mine
        await self._assignment.release(others)
        await self._drop_finished()
        for session in mine - self._followers.keys():
            self._start(session)

    async def _check_elixir(self) -> bool:
        if time.monotonic() - self._client.answered_at < TICK_INTERVAL_S:
            return self._mark_elixir_reachable()
        if self._ping is None:
            self._ping = asyncio.create_task(self._client.ping())
        # A server that hangs answers late or never, and the leases have to be renewed meanwhile.
        done, _ = await asyncio.wait({self._ping}, timeout=self._settings.lease_s / 4)
        if not done:
            return self._may_still_answer()
        ping, self._ping = self._ping, None
        try:
            ping.result()
        except ElixirUnavailableError as exc:
            if not self._elixir_unavailable:
                _log.warning("%s %s sessions are kept as they were, and grow stale.", exc, len(self._followers))
            self._elixir_unavailable = True
            return self._may_still_answer()
        except BridgeError as exc:  # it answered, if not well
            _log.debug("%s", exc)
        return self._mark_elixir_reachable()

    def _may_still_answer(self) -> bool:
        unanswered_s = time.monotonic() - self._client.answered_at
        return unanswered_s < max(self._settings.lease_s / 2, self._settings.timeout_s)

    def _mark_elixir_reachable(self) -> bool:
        if self._elixir_unavailable:
            _log.warning("Elixir at %s is back.", self._settings.bridge)
        self._elixir_unavailable = False
        return True

    def _start(self, session: str) -> None:
        def in_use() -> bool:
            return self._idle_s.get(session, _IN_USE_WINDOW_S) < _IN_USE_WINDOW_S

        follower = SessionFollower(session, self._context, in_use)
        self._followers[session] = (follower, asyncio.create_task(follower.run(), name=f"follow {session}"))

    async def _stop(self, sessions: AbstractSet[str]) -> None:
        ending = [self._followers.pop(session)[1] for session in sessions & self._followers.keys()]
        for task in ending:
            task.cancel()
        await asyncio.gather(*ending, return_exceptions=True)

    async def _drop_finished(self) -> None:
        """A follower that was fenced is begun anew if the lease is still ours; so is one that failed."""
        for session, (_, task) in [*self._followers.items()]:
            if task.done():
                del self._followers[session]
                error = None if task.cancelled() else task.exception()
                if error is not None:
                    _log.error("following session %r failed", session, exc_info=error)

    async def _send_confirmations(self) -> None:
        while True:
            try:
                await self._context.confirmations.send()
            except StoreUnavailableError as exc:
                _log.debug("%s", exc)
            await asyncio.sleep(CONFIRM_INTERVAL_S)

    async def _shut_down(self) -> None:
        if self._ping is not None:
            self._ping.cancel()
            await asyncio.gather(self._ping, return_exceptions=True)
        await self._stop(set(self._followers))
        try:
            await self._context.confirmations.send()
            await self._assignment.release(set(self._assignment.held))
            await self._leases.unregister()
        except StoreUnavailableError as exc:
            _log.warning("%s The leases of %s end by themselves.", exc, self.name)
        await self._client.aclose()
        await self._store.aclose()
        await self._connection.aclose()


def run_refresher(settings: RefresherSettings, *, name: str = "") -> None:
    """Follows until SIGTERM or SIGINT."""
    raise_open_file_limit()

    async def serve() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await _check_rights(settings)
        await Refresher(settings, name=name).run(stop)

    asyncio.run(serve())


async def _check_rights(settings: RefresherSettings) -> None:
    connection = RedisConnection(settings.redis_url)
    try:
        await check_role(Role.refresher, connection, settings.namespace)
    finally:
        await connection.aclose()


async def _wait_for_event(stop: asyncio.Event, seconds: float) -> None:
    waiting = asyncio.create_task(stop.wait())
    await asyncio.wait([waiting], timeout=seconds)
    waiting.cancel()
