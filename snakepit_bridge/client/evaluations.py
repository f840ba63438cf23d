"""``fleet.evaluations``: run evaluations, read their records, compare them, and check gates."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from snakepit_bridge.client.evaluation_arms import (
    LATEST,
    ArmResolver,
    EvaluationArm,
    check_fields,
    check_names,
    stage_values,
)
from snakepit_bridge.client.evaluation_lm import describe_lm
from snakepit_bridge.client.evaluation_metrics import GivenMetric, choose_metric
from snakepit_bridge.client.evaluation_options import EvaluationOptions, GivenDataset
from snakepit_bridge.client.evaluation_plan import UNNAMED, PlannedEvaluation, plan_evaluation
from snakepit_bridge.client.evaluation_run import EndedExample, EvaluationRun, Progress, Slots
from snakepit_bridge.client.prediction_client import PredictionClient
from snakepit_bridge.datasets.dataset import Dataset
from snakepit_bridge.datasets.registry import DatasetRegistry
from snakepit_bridge.evaluations.comparison import EvaluationComparison, compare_results
from snakepit_bridge.evaluations.gates import Gate, GateOutcome
from snakepit_bridge.evaluations.jobs import PinnedArm
from snakepit_bridge.evaluations.metric import MetricSpec
from snakepit_bridge.evaluations.record_store import EvaluationPage, EvaluationPlace, EvaluationStore
from snakepit_bridge.evaluations.records import (
    EvaluationRecord,
    ExampleResult,
    drop_content,
)
from snakepit_bridge.process.blocking_methods import blocking
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.protocol.messages import DEFAULT_SESSION
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.key_names import FleetKeys

if TYPE_CHECKING:
    from snakepit_bridge.client.evaluation import Evaluation


class AsyncEvaluations:
    """The evaluations of a fleet, for callers that await.

    Args:
        client: by which predictions are sent.
    """

    def __init__(self, client: PredictionClient) -> None:
        self._client = client
        self._store = EvaluationStore(client.connection, FleetKeys(client.namespace))

    async def run(
        self,
        program: str,
        dataset: GivenDataset,
        metric: GivenMetric,
        *,
        session: str = DEFAULT_SESSION,
        exactly: Token | str | None = None,
        options: EvaluationOptions | None = None,
    ) -> Evaluation:
        """Evaluate one program under one revision, as :meth:`Fleet.evaluate` does.

        Args:
            program: reference of the program.
            dataset: the examples.
            metric: what scores.
            session: whose variables it runs under.
            exactly: the revision: a token, a label or ``latest``; the newest if None.
            options: how it is run.

        Raises:
            EvaluationError, DatasetError, MetricError: a part of it can't be; no LM was called.
            BridgeError: what :meth:`ArmResolver.resolve` raises.
            PredictionTimeoutError: no worker makes its predictions; run it again to resume it.
            StoreUnavailableError: Redis is away.
        """

        async def resolve(resolver: ArmResolver) -> list[EvaluationArm]:
            return [await resolver.resolve(program, session, exactly or LATEST)]

        [evaluation] = await run_on_home_loop(self._run(resolve, dataset, metric, options or EvaluationOptions()))
        return evaluation

    async def run_arms(
        self,
        program: str,
        dataset: GivenDataset,
        metric: GivenMetric,
        arms: Sequence[str],
        *,
        session: str = DEFAULT_SESSION,
        options: EvaluationOptions | None = None,
    ) -> dict[str, Evaluation]:
        """Evaluate several arms side by side on the same examples, and return each by its name.

        Args:
            program, dataset, metric, session, options: as in :meth:`run`.
            arms: labels or tokens of the session, ``latest``, or labels or versions of the program.

        Raises:
            what :meth:`run` does, and EvaluationError: an arm is none of these, or is there twice.
        """
        check_names(arms)

        async def resolve(resolver: ArmResolver) -> list[EvaluationArm]:
            return [await resolver.resolve_named(name, program, session) for name in arms]

        found = await run_on_home_loop(self._run(resolve, dataset, metric, options or EvaluationOptions()))
        return dict(zip(arms, found, strict=True))

    async def run_pinned(
        self, arms: Sequence[PinnedArm], dataset: str, metric: MetricSpec, options: EvaluationOptions
    ) -> dict[str, Evaluation]:
        """Evaluate arms at their versions and revisions, and return each by its name.

        Raises:
            what :meth:`run` does.
        """

        async def resolve(resolver: ArmResolver) -> list[EvaluationArm]:
            return [await resolver.resolve_pinned(arm) for arm in arms]

        evaluations = await run_on_home_loop(self._run(resolve, dataset, metric, options))
        return dict(zip((arm.name for arm in arms), evaluations, strict=True))

    async def list(self, *, limit: int = 100, program: str = "") -> list[EvaluationRecord]:
        """Return the newest records, newest first.

        Args:
            limit: how many at most.
            program: only those of the program of this name; empty for any.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._store.list(limit=limit, program=program))

    async def read_page(self, *, size: int, program: str = "", after: EvaluationPlace | None = None) -> EvaluationPage:
        """Return a page of records, newest first, as :meth:`EvaluationStore.read_page` does."""
        return await run_on_home_loop(self._store.read_page(size=size, program=program, after=after))

    async def get(self, evaluation: str) -> EvaluationRecord:
        """Return a record by its id, or by the first six characters of it or more.

        Raises:
            EvaluationNotFoundError: there is none, or several begin like this.
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._store.get(evaluation))

    async def results(self, evaluation: str) -> list[ExampleResult]:
        """Return how each example of an evaluation fared.

        Raises:
            EvaluationNotFoundError: there is no such record.
            StoreUnavailableError: Redis is away.
        """
        return await run_on_home_loop(self._store.results(evaluation))

    async def compare(self, baseline: str | Evaluation, candidate: str | Evaluation) -> EvaluationComparison:
        """Compare two evaluations of the same examples by the same metric, example by example.

        Args:
            baseline, candidate: evaluations, or their ids.

        Raises:
            EvaluationError: the metrics differ, or there is no example that both have.
            EvaluationNotFoundError: there is no such record.
            StoreUnavailableError: Redis is away.
        """
        before, after = await self._load(baseline), await self._load(candidate)
        return compare_results(*before, *after)

    async def check(
        self,
        gates: Sequence[Gate | str],
        program: str,
        *,
        metrics: Mapping[str, GivenMetric] | None = None,
        session: str = DEFAULT_SESSION,
        candidate: str = LATEST,
        values: Mapping[str, Any] | None = None,
        baseline: str | None = None,
        options: EvaluationOptions | None = None,
    ) -> list[GateOutcome]:
        """Check gates; what was evaluated before isn't evaluated again.

        Args:
            gates: conditions such as ``exact(golden) >= baseline - 0.02``.
            program: reference of the program.
            metrics: the metrics by their names in the gates; others are DSPy's own.
            session: whose variables it runs under.
            candidate: the arm whose score has to meet them.
            values: variables that the candidate has in place of the session's newest ones, as a rollout would publish
                them; they are published to a session of their own, which expires within a day.
            baseline: the arm that relative gates compare with.
            options: how evaluations are run.

        Raises:
            GateError: a gate can't be checked.
            BridgeError: what :meth:`run_arms` raises.
        """
        parsed = [Gate.parse(gate) if isinstance(gate, str) else gate for gate in gates]
        staged = None if values is None else await run_on_home_loop(stage_values(self._client.store, session, values))
        outcomes: list[GateOutcome] = []
        for gate in parsed:
            if gate.is_relative and baseline is None:
                gate.check(0.0)  # which says that there is none
            under = options or EvaluationOptions()
            measure = partial(self._measure, gate, program, (metrics or {}).get(gate.metric, gate.metric), under)
            found = [await measure(LATEST, staged) if staged is not None else await measure(candidate, session)]
            if gate.is_relative and baseline is not None:
                found.append(await measure(baseline, session))
            means = [record.mean for record in found]
            outcomes.append(replace(gate.check(*means), evaluations=tuple(record.id for record in found)))
        return outcomes

    async def _measure(
        self, gate: Gate, program: str, metric: GivenMetric, options: EvaluationOptions, arm: str, session: str
    ) -> EvaluationRecord:
        found = await self.run_arms(program, gate.dataset, metric, [arm], session=session, options=options)
        return found[arm].record

    async def _load(self, evaluation: str | Evaluation) -> tuple[EvaluationRecord, Sequence[ExampleResult]]:
        if not isinstance(evaluation, str):
            return evaluation.record, evaluation.examples
        record = await self.get(evaluation)
        return record, await self.results(record.id)

    async def _run(
        self,
        resolve: Callable[[ArmResolver], Awaitable[list[EvaluationArm]]],
        given: GivenDataset,
        metric: GivenMetric,
        options: EvaluationOptions,
    ) -> list[Evaluation]:
        options.check()
        dataset, examples = await self._load_dataset(given)
        resolver = ArmResolver(self._client.registry, self._client.store)
        arms = await resolve(resolver)
        check_fields(arms, dataset)
        chosen = await choose_metric(
            self._client,
            resolver,
            metric,
            place=options.where,
            version=options.metric_version,
            wait_s=self._client.wait_s,
        )
        lms = await asyncio.gather(
            *(describe_lm(self._client, arm.reference, arm.session, arm.token, self._client.wait_s) for arm in arms)
        )
        arms = [replace(arm, lm_digest=lm) for arm, lm in zip(arms, lms, strict=True)]
        jobs = [plan_evaluation(arm, dataset, examples, chosen, options) for arm in arms]
        progress, slots = Progress(len(jobs) * len(dataset)), Slots(options.in_flight)
        running = [asyncio.create_task(self._run_once(job, options, slots, progress)) for job in jobs]
        try:
            return await asyncio.gather(*running)
        finally:
            for task in running:
                task.cancel()

    async def _run_once(
        self, job: PlannedEvaluation, options: EvaluationOptions, slots: Slots, progress: Progress
    ) -> Evaluation:
        """Return an evaluation from its record, or run it and store its record."""
        from snakepit_bridge.client.evaluation import Evaluation

        known = await self._store.find(job.key.id)
        if known is not None and not known.retryable:
            results = await self._store.results(known.id)
            for result in results:
                progress.add(result)
            _notify(options, progress)
            return Evaluation.build(known, results, job.examples, is_new=False)
        started_at = time.time()
        ended = await self._execute(job, options, slots, progress)
        results = [each.result for each in ended]
        record = EvaluationRecord.build(
            job.key, job.subject, results, started_at=started_at, ended_at=time.time(), author=options.author
        )
        kept = results if options.keep_content else drop_content(results)
        await self._store.put(record, kept, keep_s=options.keep_s)
        predictions = [each.prediction for each in ended]
        return Evaluation.build(record, results, job.examples, predictions, is_new=True)

    async def _execute(
        self, job: PlannedEvaluation, options: EvaluationOptions, slots: Slots, progress: Progress
    ) -> list[EndedExample]:
        run = EvaluationRun(
            self._client,
            job.arm,
            job.dataset,
            job.examples,
            job.metric,
            options.repeat,
            slots,
            progress,
            lambda counted: _notify(options, counted),
        )
        return await run.run()

    async def _load_dataset(self, given: GivenDataset) -> tuple[Dataset, Sequence[Any]]:
        if isinstance(given, str):
            registry = DatasetRegistry(self._client.connection, namespace=self._client.namespace)
            given = await registry.get(given)
        if isinstance(given, Dataset):
            return given, await asyncio.to_thread(lambda: given.examples)
        examples = list(given)
        return await asyncio.to_thread(Dataset.build, UNNAMED, examples), examples


def _notify(options: EvaluationOptions, progress: Progress) -> None:
    if options.on_progress is not None:
        options.on_progress(progress)


class Evaluations:
    """The evaluations of a fleet; each method does what the one of the same name of ``aio`` does.

    It can be used in any thread, with or without a running event loop.

    Args:
        aio: the same for callers that await.
    """

    def __init__(self, aio: AsyncEvaluations) -> None:
        self.aio = aio

    run = blocking(AsyncEvaluations.run)
    run_arms = blocking(AsyncEvaluations.run_arms)
    list = blocking(AsyncEvaluations.list)
    get = blocking(AsyncEvaluations.get)
    results = blocking(AsyncEvaluations.results)
    compare = blocking(AsyncEvaluations.compare)
    check = blocking(AsyncEvaluations.check)
