"""Serve sessions to tasks, bind programs to their revisions, and report which revisions are applied or refused.

Each process reports, for every recently used session, the newest revision that it has applied. It binds the session's
recent programs as soon as a revision arrives, so that a refusal is known before the next task needs it. Sessions come
from the replica; those that no refresher follows yet are requested.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Iterable
from contextvars import Context
from dataclasses import dataclass
from functools import partial

from cachetools import LRUCache, TTLCache

from snakepit_bridge.elixir.demand import SessionDemand
from snakepit_bridge.exceptions import (
    AuthorityAwayError,
    BindingError,
    BridgeError,
    ProgramSpecError,
    SessionNotFoundError,
    StoreUnavailableError,
    UnknownModuleError,
    ValidationError,
    VariableNotFoundError,
)
from snakepit_bridge.process.aio import OutageLog, cancel_tasks, every
from snakepit_bridge.process.lru_cache import peek_items
from snakepit_bridge.programs.bound import BoundProgram, BoundPrograms
from snakepit_bridge.programs.registry import Program
from snakepit_bridge.protocol.messages import DEFAULT_SESSION, Requirement
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.releases.index import RolloutIndex
from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.snapshots.acknowledgements import HEARTBEAT_INTERVAL_S, AckReport, Acks
from snakepit_bridge.snapshots.freshness import FreshnessPolicy, ServedSnapshot
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.snapshots.snapshot import Snapshot

ON_REFUSED = "dspex.on_refused"
"""Session variable that sets what happens to tasks whose program refuses the newest revision."""
LAST_GOOD = "last_good"

_REPORT_INTERVAL_S = 0.25
# A session that no task used for this long is no longer reported.
_IDLE_S = 60.0
_MAX_SESSIONS = 10_000
_MAX_PROGRAMS = 64
_MAX_ROLLOUTS = 10_000
# After this time an open rollout is announced again: a failover may have lost it.
_ANNOUNCED_S = 30.0
REFUSALS = (BindingError, ProgramSpecError, UnknownModuleError, ValidationError, VariableNotFoundError)
"""What binding a program to a revision raises if they don't fit each other."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AppliedProgram:
    """A program bound to a revision.

    Attributes:
        bound: the bound program.
        snapshot: the revision that it is bound to.
        refused: why the newest revision was refused; empty if it is the bound one.
    """

    bound: BoundProgram
    snapshot: Snapshot
    refused: str = ""


_RecentPrograms = LRUCache[tuple[str, int], tuple[Program, Snapshot | None]]
"""The recent programs of a session by name and version, and the last revision that each was bound to successfully."""


class RevisionBinder:
    """Binds programs to snapshots and reports applied revisions. Lives on the home loop.

    Args:
        programs: the bound programs of the process.
        sessions: its snapshots.
        acks: the store of acknowledgements.
        rollouts: where the sessions in use are announced whose newest revision is staged; None for nowhere.
    """

    def __init__(
        self, programs: BoundPrograms, sessions: SessionSnapshots, acks: Acks, rollouts: RolloutIndex | None = None
    ) -> None:
        self._programs = programs
        self._sessions = sessions
        self._acks = acks
        self._rollouts = rollouts
        self._announced: TTLCache[str, None] = TTLCache(_MAX_ROLLOUTS, _ANNOUNCED_S)
        self._recent: TTLCache[str, _RecentPrograms] = TTLCache(_MAX_SESSIONS, _IDLE_S)
        self._reported: dict[str, Token] = {}
        self._alive_at = float("-inf")
        self._reporter: asyncio.Task[None] | None = None
        self._outage = OutageLog(_log, "Can't report the applied revisions")

    async def apply(self, program: Program, snapshot: Snapshot, requirement: Requirement) -> AppliedProgram:
        """Bind a program to a snapshot, or to the last good one if the session allows that.

        Raises:
            BridgeError: the program refuses the snapshot, see ``BoundPrograms.abind``.
        """
        if requirement.kind == "exactly":
            return AppliedProgram(await self._programs.abind(program, snapshot), snapshot)
        recent, key = self._touch(snapshot.session), (program.name, program.version)
        try:
            bound = await self._programs.abind(program, snapshot)
        except REFUSALS as exc:
            last = self._record_refusal(recent, key, program, snapshot)
            if last is None or not _may_fall_back(snapshot, last, requirement):
                raise
            return AppliedProgram(await self._programs.abind(program, last), last, str(exc))
        recent[key] = (program, snapshot)
        return AppliedProgram(bound, snapshot)

    def start(self, worker: str) -> None:
        """Start reporting under a Celery node's name, unless it is running already."""
        if self._reporter is None or self._reporter.done():
            # In a context of its own: it outlives the prediction that starts it.
            self._reporter = asyncio.get_running_loop().create_task(
                every(_REPORT_INTERVAL_S, partial(self._report, f"{worker}/{os.getpid()}"), self._outage),
                context=Context(),
            )

    async def aclose(self) -> None:
        """Stop reporting."""
        await cancel_tasks(self._reporter)

    def _record_refusal(
        self, recent: _RecentPrograms, key: tuple[str, int], program: Program, snapshot: Snapshot
    ) -> Snapshot | None:
        """Record a refusal for the next report; return the last good revision of the program."""
        if key not in recent:
            recent[key] = (program, None)
            self._reported.pop(snapshot.session, None)
        return recent[key][1]

    def _touch(self, session: str) -> _RecentPrograms:
        recent = self._recent.get(session)
        if recent is None:
            recent = LRUCache(_MAX_PROGRAMS)
        self._recent[session] = recent  # its time begins anew
        return recent

    async def _report(self, process: str) -> None:
        """Report what changed since the last round, and withdraw idle sessions."""
        now = time.monotonic()
        if now - self._alive_at >= HEARTBEAT_INTERVAL_S:
            await self._acks.heartbeat(process)
            await self._renew_demand()
            self._alive_at = now
        self._recent.expire()
        # A report is no use of a session or a program: those that tasks use must outlive the others.
        active = dict(peek_items(self._recent))
        await self._announce_rollouts(active)
        idle = self._reported.keys() - active.keys()
        if idle:
            await self._acks.forget(process, idle)
            for session in idle:
                self._reported.pop(session, None)
        reports = {session: await self._build_report(session, recent) for session, recent in active.items()}
        due = {session: report for session, report in reports.items() if report is not None}
        if due:
            await self._acks.report(process, due)
            self._reported.update({session: report.token for session, report in due.items()})

    async def _announce_rollouts(self, sessions: Iterable[str]) -> None:
        """Let the controller know of each open rollout of these sessions, once."""
        if self._rollouts is None:
            return
        for session in sessions:
            snapshot = self._sessions.replica.peek(session)
            record = None if snapshot is None else snapshot.rollout
            if record is not None and record.is_open and record.id not in self._announced:
                await self._rollouts.add(str(TargetName("session", session)))
                self._announced[record.id] = None

    async def _renew_demand(self) -> None:
        """Tell the refreshers which sessions are in use, so that they keep following them."""
        active = list(self._recent)
        if self._sessions.wanted is not None and active:
            await self._sessions.wanted.touch(active)

    async def _build_report(self, session: str, recent: _RecentPrograms) -> AckReport | None:
        """Return the report of a session; None if it is unchanged or the newest revision is unknown."""
        snapshot = self._sessions.replica.peek(session)
        if snapshot is None or self._reported.get(session) == snapshot.token:
            return None
        return AckReport(snapshot.token, await self._find_refusal(recent, snapshot))

    async def _find_refusal(self, recent: _RecentPrograms, snapshot: Snapshot) -> str:
        """Return why a recent program of its session refuses this revision; empty if none does."""
        for (name, version), (program, _) in peek_items(recent):
            try:
                await self._programs.abind(program, snapshot)
            except BridgeError as exc:
                if not await self._refuses_baseline(program, snapshot):
                    return f"{name}:{version}: {exc}"
            except Exception as exc:  # noqa: BLE001 (whatever it is, the other sessions of this process are reported)
                _log.exception("Program %s:%d can't be bound to %s", name, version, snapshot.token)
                return f"{name}:{version}: {type(exc).__name__}: {exc}"
        return ""

    async def _refuses_baseline(self, program: Program, snapshot: Snapshot) -> bool:
        """Check whether a program refuses the baseline of a staged revision as well, so that it tells nothing."""
        if snapshot.baseline is None:
            return False
        try:
            await self._programs.abind(program, snapshot.baseline)
        except BridgeError:
            return True
        return False


def _may_fall_back(newest: Snapshot, last: Snapshot, requirement: Requirement) -> bool:
    """Return whether the refused revision allows falling back to the last good one."""
    variable = newest.variables.get(ON_REFUSED)
    if variable is None or variable.value != LAST_GOOD:
        return False
    return requirement.token is None or last.satisfies(requirement.token)


_POLL_INTERVAL_S = 0.1
# After a wait for a session whose authority stayed unreachable, don't wait for it again for this long.
_BACKOFF_S = 30.0
_MAX_BACKOFFS = 1_000


class SessionSnapshots:
    """The snapshots that the tasks of one process run under.

    Args:
        replica: the snapshots that the process holds.
        wanted: tells refreshers which sessions are in use; None without an Elixir server.
        wait_s: seconds to wait for a refresher to publish a session that was requested for the first time.
    """

    def __init__(self, replica: Replica, wanted: SessionDemand | None, wait_s: float) -> None:
        self.replica = replica
        self.wanted = wanted
        self._wait_s = wait_s
        self._backing_off: TTLCache[str, None] = TTLCache(_MAX_BACKOFFS, _BACKOFF_S)

    async def serve(self, session: str, requirement: Requirement, policy: FreshnessPolicy) -> ServedSnapshot:
        """Return a snapshot that meets the requirement under a policy, and its staleness.

        Raises:
            BridgeError: as ``Replica.serve`` says.
        """
        try:
            served = await self.replica.serve(session, requirement, policy)
        except SessionNotFoundError:
            if self.wanted is None or session == DEFAULT_SESSION:
                raise
            await self.wanted.touch([session])
            return await self._wait_until_followed(session, requirement, policy)
        except AuthorityAwayError:
            if not await self._request_following(session):
                raise
            return await self._wait_until_followed(session, requirement, policy)
        if served.outage and not served.store_away and await self._request_following(session):
            return await self._wait_until_followed(session, requirement, policy)
        return served

    async def _request_following(self, session: str) -> bool:
        """Request a session; return whether waiting for it makes sense.

        Refreshers stop following unused sessions, whose authority then looks unreachable. While any refresher reaches
        Elixir, a requested session is confirmed within seconds.
        """
        if self.wanted is None:
            return False
        try:
            await self.wanted.touch([session])
            return session not in self._backing_off and await self.wanted.has_live_refresher()
        except StoreUnavailableError:
            return False

    async def _wait_until_followed(
        self, session: str, requirement: Requirement, policy: FreshnessPolicy
    ) -> ServedSnapshot:
        """Wait for the session to be followed, and return what there is then."""
        until = time.monotonic() + self._wait_s
        while True:
            await asyncio.sleep(_POLL_INTERVAL_S)
            timed_out = time.monotonic() >= until
            try:
                served = await self.replica.serve(session, requirement, policy)
                if not served.outage or served.store_away:
                    return served
                if timed_out:
                    self._backing_off[session] = None
                    return served
            except SessionNotFoundError:
                if timed_out:
                    raise
            except AuthorityAwayError:
                if timed_out:
                    self._backing_off[session] = None
                    raise
