"""Following one session: look, compare, publish or confirm, rest. One of these runs per session that is followed."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from snakepit_bridge.elixir.client import BridgeClient
from snakepit_bridge.elixir.errors import ElixirError, ElixirSessionNotFoundError, ElixirUnavailableError
from snakepit_bridge.exceptions import SessionError, SessionOwnedElsewhereError, StoreUnavailableError
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots import SnapshotStore
from snakepit_bridge.snapshots.snapshot import Heard
from snakepit_bridge.variables import Variable
from workers.refresher.confirmations import PendingConfirmations
from workers.refresher.deletion_guard import DeletionGuard
from workers.refresher.outage_bound import max_silence_s
from workers.refresher.publisher import SessionPublisher, diff_variables
from workers.refresher.reader import SessionReader, SessionReading
from workers.refresher.schedule import PollSchedule, boot_clock
from workers.refresher.session_status import SessionState, SessionStatus
from workers.refresher.settings import RefresherSettings
from workers.refresher.store_clock import StoreClock
from workers.refresher.timed_event import TimedEvent
from workers.refresher.watcher import SessionWatcher, WatchSupport

_log = logging.getLogger(__name__)

# What befalls all sessions at once is told once, by the refresher.
_LEVELS = {
    SessionState.FOLLOWED: logging.INFO,
    SessionState.UNREACHABLE: logging.DEBUG,
    SessionState.STORE_UNAVAILABLE: logging.DEBUG,
}

# A session that changes without end is looked at no more often than this.
_MIN_GAP_S = 0.01


@dataclass(frozen=True, slots=True)
class FollowerContext:
    """What all sessions of a refresher share."""

    settings: RefresherSettings
    client: BridgeClient
    store: SnapshotStore
    clock: StoreClock
    confirmations: PendingConfirmations
    watch_support: WatchSupport
    read_slots: asyncio.Semaphore
    author: str


@dataclass(slots=True, eq=False)
class _SyncWaiter:
    since: float
    token: asyncio.Future[Token] = field(default_factory=lambda: asyncio.get_running_loop().create_future())


class SessionFollower:
    """Follows one session for as long as ``run`` runs.

    Args:
        session: the session.
        shared: what it shares with the others.
        in_use: tells whether somebody uses the session now.

    Attributes:
        report: how it stands.
    """

    def __init__(self, session: str, shared: FollowerContext, in_use: Callable[[], bool]) -> None:
        settings = shared.settings
        self.status = SessionStatus(session)
        self._session = session
        self._shared = shared
        self._in_use = in_use
        self._wake_up = TimedEvent()
        self._reader = SessionReader(shared.client, session)
        self._publisher = SessionPublisher(shared.store, session, settings.authority, shared.author)
        self._schedule = PollSchedule(settings.poll_s, settings.poll_max_s)
        self._deletion_guard = DeletionGuard(settings.settle_s)
        self._watcher = SessionWatcher(
            shared.client,
            session,
            shared.watch_support,
            self._wake_up,
            poll_s=settings.poll_s,
            poll_max_s=settings.poll_max_s,
        )
        self._heartbeat_at = boot_clock()
        self._round_began_at = self._read_at = 0.0
        self._sync_waiters: list[_SyncWaiter] = []

    async def run(self) -> None:
        """Follows until it is cancelled, or another publisher has the session."""
        try:
            while not self._publisher.superseded:
                await self._wait(await self._run_round())
        finally:
            for wait in self._sync_waiters:
                wait.token.cancel()
            await self._watcher.aclose()

    async def sync(self) -> Token:
        """Returns the token of the first look that begins after the call and is published or confirmed."""
        wait = _SyncWaiter(boot_clock())
        self._sync_waiters.append(wait)
        self._wake_up.set()
        return await wait.token

    async def _run_round(self) -> float:
        """Looks once and returns the seconds to rest."""
        hinted, self._round_began_at = self._wake_up.clear(), boot_clock()
        try:
            return await self._apply(await self._read(), hinted)
        except ElixirSessionNotFoundError as exc:
            self._set_state(SessionState.GONE, exc)
        except ElixirUnavailableError as exc:
            self._set_state(SessionState.UNREACHABLE, exc)
        except ElixirError as exc:
            self._set_state(SessionState.FAILING, exc)
        except StoreUnavailableError as exc:
            self._set_state(SessionState.STORE_UNAVAILABLE, exc)
        except SessionOwnedElsewhereError as exc:
            self._set_state(SessionState.OWNED_ELSEWHERE, exc)
            return self._schedule.longest_delay_s()
        except SessionError as exc:
            self._set_state(SessionState.OUTDATED, exc)
        return self._schedule.delay_after_failure_s()

    async def _read(self) -> SessionReading:
        settings = self._shared.settings
        async with self._shared.read_slots:
            if boot_clock() - self._heartbeat_at >= settings.heartbeat_s:
                await self._shared.client.heartbeat(self._session)
                self._heartbeat_at = boot_clock()
            self._read_at = boot_clock()
            return await self._reader.read(self._publisher.variables)

    async def _apply(self, seen: SessionReading, hinted: bool) -> float:
        if not await self._publisher.prepare():
            return (
                0.0  # what was seen before the fence was taken may be older than what another refresher has published
            )
        if self._publisher.is_current(seen.variables) and not seen.unreadable:
            return await self._confirm_unchanged(seen, hinted)
        held = self._publisher.variables
        carried = {name: held[name] for name in seen.unreadable if name in held}
        wanted = {**seen.variables, **carried} if carried else seen.variables
        if held and not wanted:
            self._set_state(SessionState.EMPTY)
            return self._schedule.delay_after_failure_s()
        if not self._deletion_guard.allows(frozenset(held.keys() - wanted.keys()), seen.began_at):
            self._set_state(SessionState.SETTLING)
            self._shared.confirmations.add(self._publisher, 0.0, self._signal_of(seen))
            return min(self._shared.settings.settle_s / 2, self._schedule.delay_after_failure_s())
        changed = self._publisher.token == Token(0, 0) or bool(diff_variables(held, wanted))
        if not changed:
            self._publisher.variables = wanted  # equal, and from now on the very same
        if not await self._commit(wanted, changed, seen, whole=not carried):
            return 0.0
        return self._finish_round(seen, hinted, changed)

    async def _confirm_unchanged(self, seen: SessionReading, hinted: bool) -> float:
        """The way of nearly every look: what it found is the very object that the store is known to hold."""
        self._deletion_guard.allows(frozenset(), seen.began_at)
        await self._commit(seen.variables, False, seen, whole=True)
        return self._finish_round(seen, hinted, False)

    async def _commit(
        self, wanted: Mapping[str, Variable], changed: bool, seen: SessionReading, *, whole: bool
    ) -> bool:
        """A session that keeps an older value of a variable is not confirmed: Elixir may have another by now."""
        heard = self._signal_of(seen)
        looked_at = heard.at if whole else 0.0
        if changed:
            return await self._publisher.publish(wanted, looked_at, heard) is not None
        self._shared.confirmations.add(self._publisher, looked_at, heard)
        return True

    def _signal_of(self, seen: SessionReading) -> Heard:
        """Return the sign of Elixir that a look is: it is there, whether or not all that it says can be believed."""
        now = boot_clock()
        allowed_s = max_silence_s(self._shared.settings, look_s=now - seen.began_at, turn_s=now - self._round_began_at)
        return Heard(self._shared.clock.to_store_time(seen.began_at), allowed_s)

    def _finish_round(self, seen: SessionReading, hinted: bool, changed: bool) -> float:
        self._set_state(SessionState.PARTIAL if seen.unreadable else SessionState.FOLLOWED, unreadable=seen.unreadable)
        self._resolve_sync_waiters(seen.began_at)
        self._watcher.record_read(hinted=hinted, changed=changed)
        self._watcher.watch(frozenset(seen.ids))
        interval = self._schedule.delay_after_read_s(
            busy=changed or self._in_use(), watched=self._watcher.is_reliable, took_s=boot_clock() - seen.began_at
        )
        # From turn to turn, so that waiting for the others' looks doesn't come on top.
        return max(0.0, interval - (boot_clock() - self._round_began_at))

    def _resolve_sync_waiters(self, began: float) -> None:
        for wait in [wait for wait in self._sync_waiters if wait.since <= began]:
            self._sync_waiters.remove(wait)
            if not wait.token.done():
                wait.token.set_result(self._publisher.token)

    async def _wait(self, seconds: float) -> None:
        await self._wake_up.wait(seconds)
        gap = self._read_at + _MIN_GAP_S - boot_clock()
        if gap > 0 and seconds > 0:
            await asyncio.sleep(gap)

    def _set_state(
        self, state: SessionState, problem: Exception | None = None, unreadable: Mapping[str, str] | None = None
    ) -> None:
        """Tells once of each turn, and not of every look."""
        text, found = "" if problem is None else str(problem), dict(unreadable or {})
        if (state, found) != (self.status.state, self.status.unreadable):
            _log.log(
                _LEVELS.get(state, logging.WARNING),
                "session %r is %s%s",
                self._session,
                state,
                _format_detail(text, found),
            )
            self.status = SessionStatus(self._session, state, text, found, time.time())
        self.status.token, self.status.watched = str(self._publisher.token), self._watcher.is_reliable


def _format_detail(problem: str, unreadable: Mapping[str, str]) -> str:
    parts = [problem] if problem else [f"'{name}' ({why})" for name, why in sorted(unreadable.items())]
    return f": {'; '.join(parts)}" if parts else ""
