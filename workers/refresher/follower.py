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
from workers.refresher.confirmations import Confirmations
from workers.refresher.deletion_guard import DeletionGuard
from workers.refresher.outage_bound import silence_s
from workers.refresher.publisher import Ledger, difference
from workers.refresher.reader import SessionReader, SessionReading
from workers.refresher.report import SessionStatus, State
from workers.refresher.schedule import PollSchedule, clock
from workers.refresher.settings import RefresherSettings
from workers.refresher.store_clock import StoreClock
from workers.refresher.timed_event import TimedEvent
from workers.refresher.watcher import Watching, WatchSupport

_log = logging.getLogger(__name__)

# What befalls all sessions at once is told once, by the refresher.
_LEVELS = {State.FOLLOWED: logging.INFO, State.AWAY: logging.DEBUG, State.STORE_AWAY: logging.DEBUG}

# A session that changes without end is looked at no more often than this.
_GAP_S = 0.01


@dataclass(frozen=True, slots=True)
class Shared:
    """What all sessions of a refresher share."""

    settings: RefresherSettings
    client: BridgeClient
    store: SnapshotStore
    clock: StoreClock
    confirmations: Confirmations
    served: WatchSupport
    looks: asyncio.Semaphore
    author: str


@dataclass(slots=True, eq=False)
class _Wait:
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

    def __init__(self, session: str, shared: Shared, in_use: Callable[[], bool]) -> None:
        settings = shared.settings
        self.report = SessionStatus(session)
        self._session = session
        self._shared = shared
        self._in_use = in_use
        self._told = TimedEvent()
        self._eyes = SessionReader(shared.client, session)
        self._ledger = Ledger(shared.store, session, settings.authority, shared.author)
        self._pace = PollSchedule(settings.poll_s, settings.poll_max_s)
        self._settling = DeletionGuard(settings.settle_s)
        self._watching = Watching(
            shared.client,
            session,
            shared.served,
            self._told,
            poll_s=settings.poll_s,
            poll_max_s=settings.poll_max_s,
        )
        self._beat_at = clock()
        self._turn_at = self._looked_at = 0.0
        self._waits: list[_Wait] = []

    async def run(self) -> None:
        """Follows until it is cancelled, or another publisher has the session."""
        try:
            while not self._ledger.lost:
                await self._rest(await self._round())
        finally:
            for wait in self._waits:
                wait.token.cancel()
            await self._watching.aclose()

    async def sync(self) -> Token:
        """Returns the token of the first look that begins after the call and is published or confirmed."""
        wait = _Wait(clock())
        self._waits.append(wait)
        self._told.ring()
        return await wait.token

    async def _round(self) -> float:
        """Looks once and returns the seconds to rest."""
        hinted, self._turn_at = self._told.answer(), clock()
        try:
            return await self._record(await self._look(), hinted)
        except ElixirSessionNotFoundError as problem:
            self._say(State.GONE, problem)
        except ElixirUnavailableError as problem:
            self._say(State.AWAY, problem)
        except ElixirError as problem:
            self._say(State.FAILING, problem)
        except StoreUnavailableError as problem:
            self._say(State.STORE_AWAY, problem)
        except SessionOwnedElsewhereError as problem:
            self._say(State.OWNED, problem)
            return self._pace.at_rest()
        except SessionError as problem:
            self._say(State.BEHIND, problem)
        return self._pace.after_failure()

    async def _look(self) -> SessionReading:
        settings = self._shared.settings
        async with self._shared.looks:
            if clock() - self._beat_at >= settings.heartbeat_s:
                await self._shared.client.heartbeat(self._session)
                self._beat_at = clock()
            self._looked_at = clock()
            return await self._eyes.look(self._ledger.variables)

    async def _record(self, seen: SessionReading, hinted: bool) -> float:
        if not await self._ledger.ready():
            return (
                0.0  # what was seen before the fence was taken may be older than what another refresher has published
            )
        if self._ledger.holds(seen.variables) and not seen.unreadable:
            return await self._nothing_new(seen, hinted)
        held = self._ledger.variables
        carried = {name: held[name] for name in seen.unreadable if name in held}
        wanted = {**seen.variables, **carried} if carried else seen.variables
        if held and not wanted:
            self._say(State.EMPTY)
            return self._pace.after_failure()
        if not self._settling.believes(frozenset(held.keys() - wanted.keys()), seen.began):
            self._say(State.SETTLING)
            self._shared.confirmations.mark(self._ledger, 0.0, self._heard(seen))
            return min(self._shared.settings.settle_s / 2, self._pace.after_failure())
        changed = self._ledger.token == Token(0, 0) or bool(difference(held, wanted))
        if not changed:
            self._ledger.variables = wanted  # equal, and from now on the very same
        if not await self._commit(wanted, changed, seen, whole=not carried):
            return 0.0
        return self._after(seen, hinted, changed)

    async def _nothing_new(self, seen: SessionReading, hinted: bool) -> float:
        """The way of nearly every look: what it found is the very object that the store is known to hold."""
        self._settling.believes(frozenset(), seen.began)
        await self._commit(seen.variables, False, seen, whole=True)
        return self._after(seen, hinted, False)

    async def _commit(
        self, wanted: Mapping[str, Variable], changed: bool, seen: SessionReading, *, whole: bool
    ) -> bool:
        """A session that keeps an older value of a variable is not confirmed: Elixir may have another by now."""
        heard = self._heard(seen)
        looked_at = heard.at if whole else 0.0
        if changed:
            return await self._ledger.publish(wanted, looked_at, heard) is not None
        self._shared.confirmations.mark(self._ledger, looked_at, heard)
        return True

    def _heard(self, seen: SessionReading) -> Heard:
        """Return the sign of Elixir that a look is: it is there, whether or not all that it says can be believed."""
        now = clock()
        allowed_s = silence_s(self._shared.settings, look_s=now - seen.began, turn_s=now - self._turn_at)
        return Heard(self._shared.clock.at(seen.began), allowed_s)

    def _after(self, seen: SessionReading, hinted: bool, changed: bool) -> float:
        self._say(State.PARTLY if seen.unreadable else State.FOLLOWED, unreadable=seen.unreadable)
        self._answer(seen.began)
        self._watching.looked(hinted=hinted, changed=changed)
        self._watching.follow(frozenset(seen.ids))
        interval = self._pace.after_look(
            busy=changed or self._in_use(), watched=self._watching.trusted, took_s=clock() - seen.began
        )
        # From turn to turn, so that waiting for the others' looks doesn't come on top.
        return max(0.0, interval - (clock() - self._turn_at))

    def _answer(self, began: float) -> None:
        for wait in [wait for wait in self._waits if wait.since <= began]:
            self._waits.remove(wait)
            if not wait.token.done():
                wait.token.set_result(self._ledger.token)

    async def _rest(self, seconds: float) -> None:
        await self._told.wait(seconds)
        gap = self._looked_at + _GAP_S - clock()
        if gap > 0 and seconds > 0:
            await asyncio.sleep(gap)

    def _say(self, state: State, problem: Exception | None = None, unreadable: Mapping[str, str] | None = None) -> None:
        """Tells once of each turn, and not of every look."""
        text, found = "" if problem is None else str(problem), dict(unreadable or {})
        if (state, found) != (self.report.state, self.report.unreadable):
            _log.log(
                _LEVELS.get(state, logging.WARNING), "session %r is %s%s", self._session, state, _detail(text, found)
            )
            self.report = SessionStatus(self._session, state, text, found, time.time())
        self.report.token, self.report.watched = str(self._ledger.token), self._watching.trusted


def _detail(problem: str, unreadable: Mapping[str, str]) -> str:
    parts = [problem] if problem else [f"'{name}' ({why})" for name, why in sorted(unreadable.items())]
    return f": {'; '.join(parts)}" if parts else ""
