"""Applying revisions: a program meets a snapshot, and the fleet is told whether the two go together.

Each process reports, for every session that its tasks used lately, the newest revision that it looked at. It tries the
programs that ran under the session as soon as a revision arrives, so that one which can't be applied is known before
the next task asks for it, and one which can is bound already.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections import OrderedDict
from dataclasses import dataclass

from snakepit_bridge.exceptions import (
    BindingError,
    BridgeError,
    ProgramSpecError,
    StoreUnavailableError,
    UnknownModuleError,
    ValidationError,
    VariableNotFoundError,
)
from snakepit_bridge.programs.bound import BoundProgram, BoundPrograms
from snakepit_bridge.programs.registry import Program
from snakepit_bridge.protocol.messages import Requirement
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.snapshots.acknowledgements import ALIVE_EVERY_S, AckReport, Acks
from snakepit_bridge.snapshots.snapshot import Snapshot
from tasks.outage_log import OutageLog
from tasks.sessions import SessionSnapshots

ON_REFUSED = "dspex.on_refused"
"""Session variable by which a session says what becomes of tasks whose program refuses its newest revision."""
LAST_GOOD = "last_good"

_REPORT_INTERVAL_S = 0.25
# A session that no task used for so long is held no longer, as far as the fleet is concerned.
_IDLE_S = 60.0
_MAX_SESSIONS = 10_000
_MAX_PROGRAMS = 64
_REFUSALS = (BindingError, ProgramSpecError, UnknownModuleError, ValidationError, VariableNotFoundError)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AppliedProgram:
    """A program under a revision.

    Attributes:
        bound: what runs.
        snapshot: the revision that it is bound to.
        refused: why the newest revision isn't that; empty where it is.
    """

    bound: BoundProgram
    snapshot: Snapshot
    refused: str = ""


@dataclass(slots=True)
class _Use:
    """What this process did under a session: when last, and by program the last revision that fitted it, if one did."""

    used_at: float
    programs: OrderedDict[tuple[str, int], tuple[Program, Snapshot | None]]


class RevisionBinder:
    """Binds programs to snapshots for the tasks of one process, and reports. Lives on the home loop.

    Args:
        programs: the bound programs of the process.
        sessions: its snapshots.
        acks: where it reports.
    """

    def __init__(self, programs: BoundPrograms, sessions: SessionSnapshots, acks: Acks) -> None:
        self._programs = programs
        self._sessions = sessions
        self._acks = acks
        self._uses: OrderedDict[str, _Use] = OrderedDict()
        self._reported: dict[str, Token] = {}
        self._alive_at = float("-inf")
        self._reporter: asyncio.Task[None] | None = None
        # Whoever waits for this process sees it fall silent, which is the truth.
        self._outage = OutageLog(_log, "Can't report the applied revisions")

    async def apply(self, program: Program, snapshot: Snapshot, requirement: Requirement) -> AppliedProgram:
        """Return a program bound to a snapshot, or to the last that fitted it if the session wants that.

        Raises:
            BridgeError: the program refuses the snapshot, as ``BoundPrograms.abound`` says.
        """
        if requirement.kind == "exactly":
            return AppliedProgram(await self._programs.abound(program, snapshot), snapshot)
        use, key = self._touch(snapshot.session), (program.name, program.version)
        try:
            bound = await self._programs.abound(program, snapshot)
        except _REFUSALS as refused:
            last = self._record_refusal(use, key, program, snapshot)
            if last is None or not _may_fall_back(snapshot, last, requirement):
                raise
            return AppliedProgram(await self._programs.abound(program, last), last, str(refused))
        _remember(use, key, program, snapshot)
        return AppliedProgram(bound, snapshot)

    def start(self, worker: str) -> None:
        """Begins to report under a Celery node's name, unless it does so already."""
        if self._reporter is None or self._reporter.done():
            self._reporter = asyncio.get_running_loop().create_task(self._report_forever(f"{worker}/{os.getpid()}"))

    async def aclose(self) -> None:
        """Stop reporting."""
        if self._reporter is not None:
            self._reporter.cancel()
            await asyncio.gather(self._reporter, return_exceptions=True)

    def _record_refusal(self, use: _Use, key: tuple[str, int], program: Program, snapshot: Snapshot) -> Snapshot | None:
        """Remember a refusal, to be reported, and returns the last revision that the program took."""
        if key not in use.programs:
            _remember(use, key, program, None)
            self._reported.pop(snapshot.session, None)
        return use.programs[key][1]

    def _touch(self, session: str) -> _Use:
        use = self._uses.get(session)
        if use is None:
            use = self._uses[session] = _Use(0.0, OrderedDict())
            if len(self._uses) > _MAX_SESSIONS:
                self._uses.popitem(last=False)
        self._uses.move_to_end(session)
        use.used_at = time.monotonic()
        return use

    async def _report_forever(self, process: str) -> None:
        while True:
            try:
                await self._report(process)
                self._outage.recovered()
            except StoreUnavailableError as away:
                self._outage.failed(away)
            except Exception:  # noqa: BLE001 (a report that fails must not end all that come after it)
                _log.exception("The report of the applied revisions failed; it is tried again")
            await asyncio.sleep(_REPORT_INTERVAL_S)

    async def _report(self, process: str) -> None:
        """Report what is new since the last round, and takes back what is idle."""
        now = time.monotonic()
        if now - self._alive_at >= ALIVE_EVERY_S:
            await self._acks.alive(process)
            await self._renew_demand(now)
            self._alive_at = now
        for session in [name for name, use in self._uses.items() if now - use.used_at > _IDLE_S]:
            del self._uses[session]
        idle = self._reported.keys() - self._uses.keys()
        if idle:
            await self._acks.forget(process, idle)
            for session in idle:
                self._reported.pop(session, None)
        looked = {session: await self._build_report(session) for session in list(self._uses)}
        due = {session: report for session, report in looked.items() if report is not None}
        if due:
            await self._acks.report(process, due)
            self._reported.update({session: report.token for session, report in due.items()})

    async def _renew_demand(self, now: float) -> None:
        """Tells the refreshers which sessions are in use here, so that they go on following those."""
        used = [session for session, use in self._uses.items() if now - use.used_at <= _IDLE_S]
        if self._sessions.wanted is not None and used:
            await self._sessions.wanted.want(used)

    async def _build_report(self, session: str) -> AckReport | None:
        """What is to be said of a session; nothing if that was said, or if the process doesn't know what is newest."""
        snapshot = self._sessions.replica.peek(session)
        if snapshot is None or self._reported.get(session) == snapshot.token:
            return None
        return AckReport(snapshot.token, await self._find_refusal(session, snapshot))

    async def _find_refusal(self, session: str, snapshot: Snapshot) -> str:
        """Why a program that ran under the session can't run under this revision; empty if all can."""
        use = self._uses.get(session)
        for (name, version), (program, _) in list(use.programs.items()) if use is not None else ():
            try:
                await self._programs.abound(program, snapshot)
            except BridgeError as refused:
                return f"{name}:{version}: {refused}"
        return ""


def _remember(use: _Use, key: tuple[str, int], program: Program, snapshot: Snapshot | None) -> None:
    use.programs[key] = (program, snapshot)
    use.programs.move_to_end(key)
    if len(use.programs) > _MAX_PROGRAMS:
        use.programs.popitem(last=False)


def _may_fall_back(newest: Snapshot, last: Snapshot, requirement: Requirement) -> bool:
    """The refused revision itself says whether its session would rather have an older one."""
    said = newest.variables.get(ON_REFUSED)
    if said is None or said.value != LAST_GOOD:
        return False
    return requirement.token is None or last.meets(requirement.token)
