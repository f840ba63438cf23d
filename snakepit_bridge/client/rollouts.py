"""``fleet.rollouts``: start, watch and steer rollouts of session revisions and of program versions."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from snakepit_bridge.client.release_gates import GivenGates, ReleaseChecks
from snakepit_bridge.client.rollout_start import Policy, start_program, start_session
from snakepit_bridge.exceptions import RolloutNotFoundError, RolloutPolicyError, SessionNotFoundError
from snakepit_bridge.process.blocking_methods import blocking
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases import operations
from snakepit_bridge.releases.counts import StageCountsReader
from snakepit_bridge.releases.index import RolloutIndex
from snakepit_bridge.releases.look_history import LookHistory
from snakepit_bridge.releases.report import RolloutReport, read_report
from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.releases.target_opener import TargetOpener
from snakepit_bridge.releases.targets import RolloutTarget, load_superseded
from snakepit_bridge.releases.watching import watch_events
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.looks import check_limit
from snakepit_bridge.rollouts.policy import parse_policy
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutRecord

if TYPE_CHECKING:
    from snakepit_bridge.session_context import SessionContext

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StagedTarget:
    """What is staged now.

    Attributes:
        target: ``session:NAME`` or ``program:NAME@LABEL``.
        record: its rollout: one that is open, or one whose candidate was rolled back and is still a session's newest
            revision.
        stages: how many stages its policy has; 0 if it has no valid one.
    """

    target: str
    record: RolloutRecord
    stages: int


class AsyncRollouts:
    """The rollouts of a fleet, for callers that await.

    A target is a session, ``demo``, or a label of a program, ``qa@prod``; where a session's name looks like a label,
    write ``session:NAME``.

    Args:
        connection: to the fleet's Redis.
        namespace: the fleet's.
        open_target: opens what is staged.
        open_session: returns a session by its name, for an author to publish in.
        checks: check the gates of a rollout.
    """

    def __init__(
        self,
        connection: RedisConnection,
        namespace: str,
        open_target: TargetOpener,
        open_session: Callable[[str, str], SessionContext],
        checks: ReleaseChecks,
    ) -> None:
        keys = FleetKeys(namespace)
        self._index = RolloutIndex(connection, keys)
        self._counts = StageCountsReader(connection, keys)
        self._history = LookHistory(connection, keys)
        self._open = open_target
        self._open_session = open_session
        self._checks = checks

    async def start(
        self,
        target: str,
        candidate: Mapping[str, Any] | int,
        *,
        policy: Policy | None = None,
        author: str = "",
        reason: str = "",
        require: GivenGates = (),
    ) -> RolloutRecord:
        """Start a rollout; its first stage begins within seconds, once a worker runs.

        Args:
            target: what is staged.
            candidate: of a session the variables that change, by name; of a program the version.
            policy: how it goes on; None for the session's present policy, or else the default one.
            author, reason: recorded with its start.
            require: conditions on evaluations of the candidate, such as ``exact(golden) >= baseline - 0.02``; of a
                session with the program that they are evaluated with: :class:`ReleaseGates`. The baseline is what it is
                tried against.

        Raises:
            GateFailedError: a condition isn't met; nothing was started.
            RolloutPolicyError: the policy is invalid.
            RolloutCandidateError: the candidate is nothing to try.
            RolloutOverlapError: the target has an open rollout.
            ValidationError: a value violates its type or a constraint.
            ProgramNotFoundError: there is no such program, label or version.
            StoreUnavailableError: Redis is away.
        """
        named = TargetName.parse(target)
        if isinstance(candidate, int) and named.kind == "program":
            await self._checks.check_version(named.name, named.label, candidate, require)
        elif isinstance(candidate, Mapping) and named.kind == "session":
            await self._checks.check_values(named.name, candidate, require)
        return await run_on_home_loop(self._start(named, candidate, policy, author, reason))

    async def list(self) -> list[StagedTarget]:
        """Return what is staged now, by target.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._list())

    async def show(self, target: str, *, looks: int = 0) -> RolloutReport:
        """Return how a target's rollout stands, or how it ended: its arms, guards and events.

        Args:
            target: what is staged.
            looks: up to how many past looks at its guards are returned, spread evenly; 0 for none.

        Raises:
            ValueError: that is no number of looks.
            SessionNotFoundError, ProgramNotFoundError: there is no such target.
            RolloutNotFoundError: it was never staged.
            StoreUnavailableError: Redis is away.
        """
        check_limit(looks)
        return await run_on_home_loop(self._show(self._target(target), looks))

    async def events(self, target: str, *, after: str = "", limit: int = 100) -> list[RolloutEvent]:
        """Return what has happened to a target's rollouts, oldest first.

        Args:
            target: what is staged.
            after: the position of an event: only those behind it are returned.
            limit: how many at most.

        Raises:
            SessionNotFoundError: the session was never published.
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._events(self._target(target), after, limit))

    async def watch(self, target: str, *, after: str = "") -> AsyncGenerator[RolloutEvent]:
        """Yield what has happened to a target's rollouts, and then each new event; none is left out or repeated.

        Args:
            target: what is staged.
            after: the position of an event: only those behind it are yielded.

        Raises:
            SessionNotFoundError, ProgramNotFoundError: there is no such target.
            StoreUnavailableError: Redis stays away.
        """
        watched = self._target(target)
        await run_on_home_loop(watched.require())
        events = watch_events(watched, self._open.store, after)
        try:
            while True:
                yield await run_on_home_loop(_next_event(events))
        finally:
            await run_on_home_loop(_close(events))

    async def advance(self, target: str, *, author: str, reason: str) -> RolloutRecord:
        """Begin the next stage at once, or promote the candidate after the last one; a paused rollout goes on by it.

        Args:
            target: what is staged.
            author, reason: recorded with the step; neither may be blank.

        Raises:
            RolloutStateError: the target has no open rollout.
            RolloutPolicyError: its policy is invalid.
            RolloutMovedError: the rollout was moved on meanwhile.
            StoreUnavailableError: Redis is away.
        """
        return await self._step(operations.advance, target, author, reason)

    async def pause(self, target: str, *, author: str, reason: str) -> RolloutRecord:
        """Pause a rollout: the candidate keeps its share, guards hold, and no other stage begins.

        Args:
            target: what is staged.
            author, reason: recorded with the step; neither may be blank.

        Raises:
            RolloutStateError: the target has no rollout that goes on.
            StoreUnavailableError: Redis is away.
        """
        return await self._step(operations.pause, target, author, reason)

    async def resume(self, target: str, *, author: str, reason: str) -> RolloutRecord:
        """Resume a paused rollout in its stage.

        Args:
            target: what is staged.
            author, reason: recorded with the step; neither may be blank.

        Raises:
            RolloutStateError: the target has no paused rollout.
            RolloutPolicyError: its policy is invalid.
            StoreUnavailableError: Redis is away.
        """
        return await self._step(operations.resume, target, author, reason)

    async def abort(self, target: str, *, author: str, reason: str) -> RolloutRecord:
        """Roll back an open rollout: everybody stays with the baseline.

        Args:
            target: what is staged.
            author, reason: recorded with the step; neither may be blank.

        Raises:
            RolloutStateError: the target has no open rollout.
            StoreUnavailableError: Redis is away.
        """
        return await self._step(operations.abort, target, author, reason)

    def _target(self, text: str) -> RolloutTarget:
        return self._open(TargetName.parse(text))

    async def _start(
        self, target: TargetName, candidate: Mapping[str, Any] | int, policy: Policy | None, author: str, reason: str
    ) -> RolloutRecord:
        if isinstance(candidate, int):
            record = await self._start_program(target, candidate, policy, author, reason)
        elif target.kind == "session":
            context = self._open_session(target.name, author)
            record = await start_session(target, context, candidate, policy, reason)
        else:
            raise TypeError(f"The candidate of {target} is the number of a version, not {type(candidate).__name__}.")
        await self._index.add(str(target))
        return record

    async def _start_program(
        self, target: TargetName, version: int, policy: Policy | None, author: str, reason: str
    ) -> RolloutRecord:
        if target.kind == "session":
            raise TypeError(f"The candidate of {target} is a mapping of variables, not a number.")
        from snakepit_bridge.programs.rollouts import ProgramRollouts

        return await start_program(target, ProgramRollouts(self._open.open_registry()), version, policy, author, reason)

    async def _list(self) -> list[StagedTarget]:
        heads = await self._open.store.staged_sessions()
        staged = await asyncio.gather(
            *(
                self._describe_session(name, head.rollout)
                for name, head in heads.items()
                if head.rollout is not None and head.rollout.is_staged
            )
        )
        sessions = {str(TargetName("session", name)) for name in heads}
        for target in await self._index.list():
            state = None if target in sessions else await self._target(target).load()
            if state is not None and state.record.is_open:
                staged.append(StagedTarget(target, state.record, _count_stages(state.policy)))
        return sorted(staged, key=lambda each: each.target)

    async def _describe_session(self, name: str, record: RolloutRecord) -> StagedTarget:
        try:
            policy = (await self._open.store.read(name)).variables.get(POLICY_VARIABLE)
        except SessionNotFoundError:  # dropped meanwhile
            policy = None
        text = None if policy is None else str(policy.value)
        return StagedTarget(str(TargetName("session", name)), record, _count_stages(text))

    async def _show(self, target: RolloutTarget, looks: int) -> RolloutReport:
        state = await target.load() or await load_superseded(target)
        if state is None:
            raise RolloutNotFoundError(str(target.name), "show", "it was never staged")
        report = await read_report(target, state, self._counts)
        return replace(report, looks=await self._history.read(report.record.id, looks)) if looks else report

    async def _events(self, target: RolloutTarget, after: str, limit: int) -> list[RolloutEvent]:
        return list(await target.events(after, limit))

    async def _step(self, operation: _Operation, target: str, author: str, reason: str) -> RolloutRecord:
        return await run_on_home_loop(operation(self._target(target), author=author, reason=reason))


class _Operation(Protocol):
    def __call__(self, target: RolloutTarget, *, author: str, reason: str) -> Coroutine[Any, Any, RolloutRecord]: ...


class Rollouts:
    """The rollouts of a fleet; each method does what the one of the same name of ``aio`` does.

    It can be used in any thread, with or without a running event loop.

    Args:
        aio: the same for callers that await, with ``watch``.
    """

    def __init__(self, aio: AsyncRollouts) -> None:
        self.aio = aio

    start = blocking(AsyncRollouts.start)
    list = blocking(AsyncRollouts.list)
    show = blocking(AsyncRollouts.show)
    events = blocking(AsyncRollouts.events)
    advance = blocking(AsyncRollouts.advance)
    pause = blocking(AsyncRollouts.pause)
    resume = blocking(AsyncRollouts.resume)
    abort = blocking(AsyncRollouts.abort)


def _count_stages(policy: str | None) -> int:
    """Return how many stages a policy has; 0 for none, or an invalid one."""
    try:
        return 0 if policy is None else len(parse_policy(policy).stages)
    except RolloutPolicyError:
        return 0


async def _next_event(events: AsyncGenerator[RolloutEvent]) -> RolloutEvent:
    return await anext(events)


async def _close(events: AsyncGenerator[RolloutEvent]) -> None:
    await events.aclose()
