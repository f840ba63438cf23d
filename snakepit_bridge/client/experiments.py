"""``fleet.experiments``: start, show and end experiments with revisions of a session or versions of a program."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from snakepit_bridge.process.blocking_methods import blocking
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.releases.counts import StageCountsReader
from snakepit_bridge.releases.experiment_report import ExperimentReport, read_experiment_report
from snakepit_bridge.releases.running_experiments import RunningExperiment, read_running_experiments
from snakepit_bridge.releases.session_experiments import SessionExperiments
from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.rollouts.events import check_attribution
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent
from snakepit_bridge.rollouts.experiments import Experiment
from snakepit_bridge.rollouts.target_experiments import TargetExperiments
from snakepit_bridge.snapshots import SnapshotStore

if TYPE_CHECKING:
    from snakepit_bridge.programs.registry import ProgramRegistry
    from snakepit_bridge.session_context import SessionContext


class AsyncExperiments:
    """The experiments of a fleet, for callers that await.

    A target is a session, ``demo``, or a label of a program, ``qa@prod``; where a session's name looks like a label,
    write ``session:NAME``.

    Args:
        connection: to the fleet's Redis.
        namespace: the fleet's.
        store: the sessions.
        open_registry: returns the programs; it is called for a program alone, since programs load DSPy.
        open_session: returns a session by its name, for an author to publish in.
    """

    def __init__(
        self,
        connection: RedisConnection,
        namespace: str,
        store: SnapshotStore,
        open_registry: Callable[[], ProgramRegistry],
        open_session: Callable[[str, str], SessionContext],
    ) -> None:
        self._connection = connection
        self._keys = FleetKeys(namespace)
        self._counts = StageCountsReader(connection, self._keys)
        self._store = store
        self._open_registry = open_registry
        self._open_session = open_session

    async def start(
        self, target: str, plan: str | Mapping[str, Any], *, author: str = "", reason: str = ""
    ) -> Experiment:
        """Start an experiment on a target's requests.

        Args:
            target: what is tried.
            plan: its name, arms and, if not all requests take part, range and segment, as JSON text or its value; the
                revision of an arm is the number of a program's version, or a token or label of a session.
            author, reason: recorded with its start.

        Raises:
            ExperimentError: the plan is invalid, or a revision of it doesn't exist.
            RolloutOverlapError: the target has an open rollout, or another experiment that the plan would overlap.
            SessionNotFoundError: the session was never published.
            ProgramNotFoundError: there is no such program or label.
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._on(target).start(plan, author=author, reason=reason))

    async def decide(self, target: str, experiment: str, arm: str, *, author: str, reason: str) -> Experiment:
        """End an experiment, and give everybody the revision of one of its arms.

        A session publishes the arm's variables again; a label moves to the arm's version.

        Args:
            target: what is tried.
            experiment: its name.
            arm: the name of the arm.
            author, reason: recorded with its end; neither may be blank.

        Raises:
            ExperimentNotFoundError: it doesn't run.
            ExperimentError: it has no such arm.
            SessionOwnedElsewhereError: an Elixir server publishes the session, and the fleet has no ``bridge``.
            ValueError: the author or the reason is blank.
            StoreUnavailableError: Redis is away.
        """
        check_attribution("The decision of an experiment", author, reason)
        return await run_on_home_loop(self._on(target).decide(experiment, arm, author=author, reason=reason))

    async def stop(self, target: str, experiment: str, *, author: str, reason: str) -> Experiment:
        """End an experiment without a decision: everybody gets what the target stands for.

        Args:
            target: what is tried.
            experiment: its name.
            author, reason: recorded with its end; neither may be blank.

        Raises:
            ExperimentNotFoundError: it doesn't run.
            ValueError: the author or the reason is blank.
            StoreUnavailableError: Redis is away.
        """
        check_attribution("The end of an experiment", author, reason)
        return await run_on_home_loop(self._on(target).stop(experiment, author=author, reason=reason))

    async def list_all(self) -> list[RunningExperiment]:
        """Return all experiments that run in the fleet, by target.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(read_running_experiments(self._connection, self._keys, self._store))

    async def list(self, target: str) -> tuple[Experiment, ...]:
        """Return the experiments that run on a target.

        Raises:
            SessionNotFoundError: the session was never published.
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._on(target).list())

    async def show(self, target: str, experiment: str) -> ExperimentReport:
        """Return how an experiment stands, or how the last one of its name ended: what was counted of each arm.

        Args:
            target: what is tried.
            experiment: its name; or its id, where a later one has its name.

        Raises:
            ExperimentNotFoundError: the target has had none of this name.
            SessionNotFoundError: the session was never published.
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._show(self._on(target), experiment))

    async def events(self, target: str, *, after: str = "", limit: int = 100) -> list[ExperimentEvent]:
        """Return what has happened to a target's experiments, oldest first.

        Args:
            target: what is tried.
            after: the position of an event: only those behind it are returned.
            limit: how many at most.

        Raises:
            SessionNotFoundError: the session was never published.
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._on(target).events(after, limit))

    async def _show(self, target: TargetExperiments, experiment: str) -> ExperimentReport:
        seconds, _ = await self._connection.execute_read("TIME")
        return await read_experiment_report(target, experiment, self._counts, float(seconds))

    def _on(self, target: str) -> TargetExperiments:
        name = TargetName.parse(target)
        if name.kind == "session":
            return SessionExperiments(self._store, name.name, self._open_session)
        from snakepit_bridge.programs.experiments import LabelExperiments

        return LabelExperiments(self._open_registry(), name.name, name.label)


class Experiments:
    """The experiments of a fleet; each method does what the one of the same name of ``aio`` does.

    It can be used in any thread, with or without a running event loop.

    Args:
        aio: the same for callers that await.
    """

    def __init__(self, aio: AsyncExperiments) -> None:
        self.aio = aio

    start = blocking(AsyncExperiments.start)
    decide = blocking(AsyncExperiments.decide)
    stop = blocking(AsyncExperiments.stop)
    list_all = blocking(AsyncExperiments.list_all)
    list = blocking(AsyncExperiments.list)
    show = blocking(AsyncExperiments.show)
    events = blocking(AsyncExperiments.events)
