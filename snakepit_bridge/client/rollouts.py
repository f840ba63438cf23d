"""``fleet.rollouts``: start, watch and steer rollouts of session revisions and of program versions."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from snakepit_bridge.client.rollout_start import Policy, start_program, start_session
from snakepit_bridge.exceptions import RolloutStateError
from snakepit_bridge.process.home_loop import run_blocking, run_on_home_loop
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases import operations
from snakepit_bridge.releases.counts import StageCountsReader
from snakepit_bridge.releases.index import RolloutIndex
from snakepit_bridge.releases.report import RolloutReport, read_report
from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.releases.target_opener import TargetOpener
from snakepit_bridge.releases.targets import RolloutTarget
from snakepit_bridge.releases.watching import watch_events
from snakepit_bridge.rollouts.events import RolloutEvent
from snakepit_bridge.rollouts.records import RolloutRecord

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
    """

    target: str
    record: RolloutRecord


class AsyncRollouts:
    """The rollouts of a fleet, for callers that await.

    A target is a session, ``demo``, or a label of a program, ``qa@prod``; where a session's name looks like a label,
    write ``session:NAME``.

    Args:
        connection: to the fleet's Redis.
        namespace: the fleet's.
        open_target: opens what is staged.
        open_session: returns a session by its name, for an author to publish in.
    """

    def __init__(
        self,
        connection: RedisConnection,
        namespace: str,
        open_target: TargetOpener,
        open_session: Callable[[str, str], SessionContext],
    ) -> None:
        keys = FleetKeys(namespace)
        self._index = RolloutIndex(connection, keys)
        self._counts = StageCountsReader(connection, keys)
        self._open = open_target
        self._open_session = open_session

    async def start(
        self,
        target: str,
        candidate: Mapping[str, Any] | int,
        *,
        policy: Policy | None = None,
        author: str = "",
        reason: str = "",
    ) -> RolloutRecord:
        """Start a rollout; its first stage begins within seconds, once a worker runs.

        Args:
            target: what is staged.
            candidate: of a session the variables that change, by name; of a program the version.
            policy: how it goes on; None for the session's present policy, or else the default one.
            author, reason: recorded with its start.

        Raises:
            RolloutPolicyError: the policy is invalid.
            RolloutCandidateError: the candidate is nothing to try.
            RolloutOverlapError: the target has an open rollout.
            ValidationError: a value violates its type or a constraint.
            ProgramNotFoundError: there is no such program, label or version.
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._start(TargetName.parse(target), candidate, policy, author, reason))

    async def list(self) -> list[StagedTarget]:
        """Return what is staged now, by target.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._list())

    async def show(self, target: str) -> RolloutReport:
        """Return how a target's rollout stands, or how it ended: its arms, guards and events.

        Raises:
            RolloutStateError: the target has none.
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._show(self._target(target)))

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
            StoreUnavailableError: Redis stays away.
        """
        events = watch_events(self._target(target), self._open.store, after)
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
        heads = await self._open.store.sessions()
        found = {str(TargetName("session", name)): head.rollout for name, head in heads.items()}
        staged = {target: record for target, record in found.items() if record is not None and record.is_staged}
        for target in await self._index.list():
            if target not in found and (state := await self._target(target).load()) is not None:
                staged |= {target: state.record} if state.record.is_open else {}
        return [StagedTarget(target, staged[target]) for target in sorted(staged)]

    async def _show(self, target: RolloutTarget) -> RolloutReport:
        state = await target.load()
        if state is None:
            raise RolloutStateError(str(target.name), "show", "there is none")
        return await read_report(target, state, self._counts)

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

    def start(
        self,
        target: str,
        candidate: Mapping[str, Any] | int,
        *,
        policy: Policy | None = None,
        author: str = "",
        reason: str = "",
    ) -> RolloutRecord:
        return run_blocking(self.aio.start(target, candidate, policy=policy, author=author, reason=reason))

    def list(self) -> list[StagedTarget]:
        return run_blocking(self.aio.list())

    def show(self, target: str) -> RolloutReport:
        return run_blocking(self.aio.show(target))

    def events(self, target: str, *, after: str = "", limit: int = 100) -> list[RolloutEvent]:
        return run_blocking(self.aio.events(target, after=after, limit=limit))

    def advance(self, target: str, *, author: str, reason: str) -> RolloutRecord:
        return run_blocking(self.aio.advance(target, author=author, reason=reason))

    def pause(self, target: str, *, author: str, reason: str) -> RolloutRecord:
        return run_blocking(self.aio.pause(target, author=author, reason=reason))

    def resume(self, target: str, *, author: str, reason: str) -> RolloutRecord:
        return run_blocking(self.aio.resume(target, author=author, reason=reason))

    def abort(self, target: str, *, author: str, reason: str) -> RolloutRecord:
        return run_blocking(self.aio.abort(target, author=author, reason=reason))


async def _next_event(events: AsyncGenerator[RolloutEvent]) -> RolloutEvent:
    return await anext(events)


async def _close(events: AsyncGenerator[RolloutEvent]) -> None:
    await events.aclose()
