"""How stale the sessions in use are, and how many worker processes lag behind their current revisions."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.demand import SessionDemand
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.snapshots import STORE, Head
from snakepit_bridge.snapshots.acknowledgements import Acks, ProcessAck
from snakepit_bridge.snapshots.redis_keys import Keys

# Sessions whose heads are read in one round, and those of them whose acknowledgements are.
_MAX_SESSIONS, _MAX_CHECKED = 5_000, 500
# Processes that have applied a revision stay at it; a new process that refuses it is found by another look.
_CHECK_AGAIN_S = 60.0


@dataclass(frozen=True, slots=True)
class SessionReport:
    """The state of one session.

    Attributes:
        session: its name.
        staleness_s: seconds since Elixir confirmed it; None if it isn't in use, or published to the store directly.
        is_stale: whether Elixir has been silent on it for longer than its refresher allows.
        lagging: how many live processes that use it don't apply its current revision.
        behind: how many revisions the last of them is behind.
    """

    session: str
    staleness_s: float | None = None
    is_stale: bool = False
    lagging: int = 0
    behind: int = 0


@dataclass(frozen=True, slots=True)
class SessionsReport:
    """The state of a fleet's sessions.

    Attributes:
        sessions: each session that was looked at.
        workers: live worker processes.
        refreshers: running refreshers.
    """

    sessions: Sequence[SessionReport]
    workers: int
    refreshers: int


@dataclass(frozen=True, slots=True)
class _Lag:
    token: Token
    lagging: int
    behind: int
    checked_at: float


class SessionsReader:
    """Reads the state of a fleet's sessions, repeatedly.

    A round looks at the sessions in demand and at those that were created last, 5,000 at most. Acknowledgements are
    read where a revision is new or was still being applied, and otherwise once a minute.

    Args:
        fleet: the fleet.
        followed: sessions that are in use whether or not somebody asks for them.
    """

    def __init__(self, fleet: Fleet, followed: Collection[str] = ()) -> None:
        self._fleet = fleet
        self._followed = tuple(followed)
        self._demand = SessionDemand(fleet.connection, namespace=fleet.namespace)
        self._acks = Acks(fleet.connection, namespace=fleet.namespace)
        self._lags: dict[str, _Lag] = {}

    async def read(self) -> SessionsReport:
        """Return the present state.

        Raises:
            StoreUnavailableError: Redis is unreachable.
        """
        keys, index = FleetKeys(self._fleet.namespace), Keys(self._fleet.namespace).index
        commands = [("ZCARD", keys.refreshers), ("ZRANGE", index, 0, _MAX_SESSIONS - 1, "REV")]
        refreshers, created = await self._fleet.connection.send_each(commands)
        idle_times = await self._demand.read_idle_times()
        in_use = [*self._followed, *sorted(idle_times, key=idle_times.__getitem__)]
        names = list(dict.fromkeys([*in_use, *(name.decode() for name in created)]))[:_MAX_SESSIONS]
        heads = await self._fleet.store.heads(names)
        await self._check(heads)
        used = set(in_use)
        reports = [self._report(session, head, in_use=session in used) for session, head in heads.items()]
        return SessionsReport(reports, await self._acks.count_processes(), int(refreshers))

    async def _check(self, heads: Mapping[str, Head]) -> None:
        """Update how far the processes of each session lag."""
        self._lags = {session: lag for session, lag in self._lags.items() if session in heads}
        due = [session for session, head in heads.items() if self._is_due(session, head)]
        now = time.monotonic()
        # The longest unchecked first: sessions that keep lagging mustn't keep the others from their turn.
        due.sort(key=self._checked_at)
        for session, acks in (await self._acks.read_all(due[:_MAX_CHECKED])).items():
            token = heads[session].token
            lagging = [ack for ack in acks if not ack.acknowledges(token)]
            behind = max((_revisions_behind(ack, token) for ack in lagging), default=0)
            self._lags[session] = _Lag(token, len(lagging), behind, now)

    def _checked_at(self, session: str) -> float:
        lag = self._lags.get(session)
        return -math.inf if lag is None else lag.checked_at

    def _is_due(self, session: str, head: Head) -> bool:
        lag = self._lags.get(session)
        if lag is None or lag.lagging or lag.token != head.token:
            return True
        return time.monotonic() - lag.checked_at > _CHECK_AGAIN_S

    def _report(self, session: str, head: Head, *, in_use: bool) -> SessionReport:
        lag = self._lags.get(session)
        lagging, behind = (lag.lagging, lag.behind) if lag is not None else (0, 0)
        if not in_use or head.authority in ("", STORE):
            return SessionReport(session, lagging=lagging, behind=behind)
        heard = head.heard
        is_stale = heard is not None and head.now > heard.at + heard.silence_s
        return SessionReport(session, max(0.0, head.now - head.confirmed_at), is_stale, lagging, behind)


def _revisions_behind(ack: ProcessAck, current: Token) -> int:
    """Return how many revisions a process is behind; at least 1 across epochs, 0 if it refuses the current one."""
    return max(1, current.revision - ack.token.revision) if ack.token < current else 0
