"""Follow one session in a loop: read it from Elixir, compare, publish or confirm, wait."""

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
from snakepit_bridge.snapshots.snapshot import AuthoritySign
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import READ_DURATION
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

# What affects all sessions at once is logged once, by the refresher.
_LEVELS = {
    SessionState.FOLLOWED: logging.INFO,
    SessionState.UNREACHABLE: logging.DEBUG,
    SessionState.STORE_UNAVAILABLE: logging.DEBUG,
}

# The shortest time between two reads of a session that changes all the time.
_MIN_GAP_S = 0.01


@dataclass(frozen=True, slots=True)
class FollowerContext:
    """What all followers of a refresher share."""

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
        session: the session's name.
        context: what it shares with the other followers.
        in_use: returns whether the session is in use now.

    Attributes:
        status: the session's current status.
    """

    def __init__(self, session: str, context: FollowerContext, in_use: Callable[[], bool]) -> None:
        settings = context.settings
        self.status = SessionStatus(session)
        self._session = session
        self._context = context
        self._in_use = in_use
        self._wake_up = TimedEvent()
        self._reader = SessionReader(context.client, session)
        self._publisher = SessionPublisher(context.store, session, settings.authority, context.author)
        self._schedule = PollSchedule(settings.poll_s, settings.poll_max_s)
        self._deletion_guard = DeletionGuard(settings.settle_s)
        self._watcher = SessionWatcher(
            context.client,
            session,
            context.watch_support,
            self._wake_up,
            poll_s=settings.poll_s,
            poll_max_s=settings.poll_max_s,
        )
        self._heartbeat_at = boot_clock()
        self._round_began_at = self._read_at = 0.0
        self._sync_waiters: list[_SyncWaiter] = []

    async def run(self) -> None:
        """Follow until cancelled, or until another publisher has taken the session."""
        try:
            while not self._publisher.superseded:
                await self._wait(await self._run_round())
        finally:
            for waiter in self._sync_waiters:
                waiter.token.cancel()
            await self._watcher.aclose()

    async def sync(self) -> Token:
        """Return the token of the first read that begins after this call and is published or confirmed."""
        waiter = _SyncWaiter(boot_clock())
        self._sync_waiters.append(waiter)
        self._wake_up.set()
        return await waiter.token

    async def _run_round(self) -> float:
        """Read the session once; return the seconds to wait before the next round."""
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
        settings = self._context.settings
        async with self._context.read_slots:
            if boot_clock() - self._heartbeat_at >= settings.heartbeat_s:
                await self._context.client.heartbeat(self._session)
                self._heartbeat_at = boot_clock()
            self._read_at = boot_clock()
            try:
                reading = await self._reader.read(self._publisher.variables)
            except ElixirError as exc:
                _record_read(self._read_at, type(exc).__name__)
                raise
        _record_read(self._read_at)
        return reading

    async def _apply(self, reading: SessionReading, hinted: bool) -> float:
        if not await self._publisher.prepare():
            # A reading from before the fence was raised may be older than what another refresher has published.
            return 0.0
        if self._publisher.is_current(reading.variables) and not reading.unreadable:
            return await self._confirm_unchanged(reading, hinted)
        held = self._publisher.variables
        carried = {name: held[name] for name in reading.unreadable if name in held}
        wanted = {**reading.variables, **carried} if carried else reading.variables
        if held and not wanted:
            self._set_state(SessionState.EMPTY)
            return self._schedule.delay_after_failure_s()
        if not self._deletion_guard.allows(frozenset(held.keys() - wanted.keys()), reading.began_at):
            self._set_state(SessionState.SETTLING)
            self._context.confirmations.add(self._publisher, 0.0, self._signal_of(reading))
            return min(self._context.settings.settle_s / 2, self._schedule.delay_after_failure_s())
        changed = self._publisher.token == Token(0, 0) or bool(diff_variables(held, wanted))
        if not changed:
            self._publisher.variables = wanted  # equal; from now on identical, so that the next comparison is immediate
        if not await self._commit(wanted, changed, reading, whole=not carried):
            return 0.0
        return self._finish_round(reading, hinted, changed)

    async def _confirm_unchanged(self, reading: SessionReading, hinted: bool) -> float:
        """Finish the most frequent round: the reading is the very object that the store is known to hold."""
        self._deletion_guard.allows(frozenset(), reading.began_at)
        await self._commit(reading.variables, False, reading, whole=True)
        return self._finish_round(reading, hinted, False)

    async def _commit(
        self, wanted: Mapping[str, Variable], changed: bool, reading: SessionReading, *, whole: bool
    ) -> bool:
        """Publish or confirm a reading; return False if the publisher isn't prepared.

        Unless the reading is ``whole``, it confirms nothing: Elixir may hold another value of a variable that
        couldn't be read.
        """
        heard = self._signal_of(reading)
        looked_at = heard.at if whole else 0.0
        if changed:
            return await self._publisher.publish(wanted, looked_at, heard) is not None
        self._context.confirmations.add(self._publisher, looked_at, heard)
        return True

    def _signal_of(self, reading: SessionReading) -> AuthoritySign:
        """Return the proof that Elixir was reachable, which any reading is, conclusive or not."""
        now = boot_clock()
        allowed_s = max_silence_s(
            self._context.settings, read_s=now - reading.began_at, round_s=now - self._round_began_at
        )
        return AuthoritySign(self._context.clock.to_store_time(reading.began_at), allowed_s)

    def _finish_round(self, reading: SessionReading, hinted: bool, changed: bool) -> float:
        self._set_state(
            SessionState.PARTIAL if reading.unreadable else SessionState.FOLLOWED, unreadable=reading.unreadable
        )
        self._resolve_sync_waiters(reading.began_at)
        self._watcher.record_read(hinted=hinted, changed=changed)
        self._watcher.watch(frozenset(reading.ids))
        interval = self._schedule.delay_after_read_s(
            busy=changed or self._in_use(), watched=self._watcher.is_reliable, took_s=boot_clock() - reading.began_at
        )
        # From round to round, so that waiting for a read slot doesn't add to the interval.
        return max(0.0, interval - (boot_clock() - self._round_began_at))

    def _resolve_sync_waiters(self, began_at: float) -> None:
        for waiter in [waiter for waiter in self._sync_waiters if waiter.since <= began_at]:
            self._sync_waiters.remove(waiter)
            if not waiter.token.done():
                waiter.token.set_result(self._publisher.token)

    async def _wait(self, seconds: float) -> None:
        await self._wake_up.wait(seconds)
        gap_s = self._read_at + _MIN_GAP_S - boot_clock()
        if gap_s > 0 and seconds > 0:
            await asyncio.sleep(gap_s)

    def _set_state(
        self, state: SessionState, problem: Exception | None = None, unreadable: Mapping[str, str] | None = None
    ) -> None:
        """Update the status, and log it if the state or the unreadable variables changed."""
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


def _record_read(began_at: float, error_type: str = "") -> None:
    TELEMETRY.meter.record(READ_DURATION, boot_clock() - began_at, {"error.type": error_type})


def _format_detail(problem: str, unreadable: Mapping[str, str]) -> str:
    parts = [problem] if problem else [f"'{name}' ({why})" for name, why in sorted(unreadable.items())]
    return f": {'; '.join(parts)}" if parts else ""
