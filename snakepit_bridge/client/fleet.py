"""Fleet: the client's entry point. Predictions, programs, sessions, and what is tried and measured on a fleet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from snakepit_bridge.client.audit_client import AuditClient
from snakepit_bridge.client.promotion import carry_out_move, plan_move
from snakepit_bridge.client.release_gates import GivenGates, ReleaseChecks
from snakepit_bridge.costs.report import CostDimension, CostReport, read_costs
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.messages import DEFAULT_SESSION
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.redis.key_names import FleetKeys
from snakepit_bridge.snapshots.acknowledgements import ProcessAck

if TYPE_CHECKING:
    from snakepit_bridge.client.bulk.progress import BulkReport
    from snakepit_bridge.client.datasets import Datasets
    from snakepit_bridge.client.evaluation import Evaluation
    from snakepit_bridge.client.evaluation_metrics import GivenMetric
    from snakepit_bridge.client.evaluation_options import GivenDataset
    from snakepit_bridge.client.evaluations import Evaluations
    from snakepit_bridge.client.experiments import Experiments
    from snakepit_bridge.client.jobs import Jobs
    from snakepit_bridge.client.judges import Judges
    from snakepit_bridge.client.optimization.budget import Budget
    from snakepit_bridge.client.optimization.optimize import OnOptimizationProgress, Optimization
    from snakepit_bridge.client.recorders import Recorders
    from snakepit_bridge.client.rollouts import Rollouts
    from snakepit_bridge.lm.captured_calls import CapturedCalls
    from snakepit_bridge.session_context import SessionContext


class Fleet(AuditClient):
    """A fleet of workers, as an application sees it. Opens nothing until it is used; safe in threads and after a fork.

    Args:
        redis_url: Redis or Valkey that the workers use; also the broker, unless another is named.
        broker_url: another broker, RabbitMQ, as the workers' ``DSPEX_BROKER_URL``; without effect if ``app`` is given.
        app: a Celery app to send with, whose result backend is Redis; its configuration stays as it is.
        namespace: the fleet's own part of the Redis, as the workers' settings have it; others are out of reach.
        queue: where the workers take predictions from; the namespace's own if None.
        wait_s: seconds that waiting for one prediction takes at most, unless a call says otherwise.
        timeout_s: seconds within which Redis must answer.
        result_expires_s: seconds that idempotency keys and cancellations are kept.
        allowed_packages: packages whose classes, tools and types the specs of programs may name.
        bridge: ``HOST:PORT`` of the Elixir server to which changes go of the sessions that it owns.
        payload_bytes: inputs beyond about so many bytes travel beside their message, by reference.
        bounds: how deep and how large an input may be.
        target_bounds: how much a program that is registered may ask for; give what the workers are set to.
        encryption: the keys by which the fleet encrypts what it keeps in Redis; give what the workers are set to.
        durability: when a publish, a submit and its result count: ``primary``, once Redis has them; ``replicated``,
            once a replica has them, or ``NotReplicatedError`` is raised after a second; ``fsynced``, once they are on
            disk, within three seconds; or either with ``(REPLICAS, SECONDS)``. Workers commit a result again until it
            counts.
        signing_keys: the keys by which the messages are signed that it sends, where the workers ask for that.
        source: where the changes that are made by it come from, for the audit trail.

    Raises:
        ConfigurationError: an argument has a type that it can't have, or the URL can't be read.
        ValueError: the namespace or the durability can't be one.

    Example:
        >>> fleet = Fleet()
        >>> qa = dspy.ChainOfThought("question -> answer")
        >>> program = fleet.register("qa", qa, bindings={"temperature": "llm_temperature"})
        >>> fleet.submit("qa", {"question": "What is 6 times 7?"}).get().answer
        '42'
    """

    def optimize(
        self,
        program: str,
        trainset: GivenDataset,
        metric: GivenMetric,
        *,
        optimizer: Any,
        options: Mapping[str, Any] | None = None,
        compile_options: Mapping[str, Any] | None = None,
        valset: GivenDataset | None = None,
        session: str = DEFAULT_SESSION,
        budget: Budget | None = None,
        in_flight: int = 100,
        priority: int = 0,
        run_id: str | None = None,
        label: str | None = "candidate",
        author: str = "",
        on_progress: OnOptimizationProgress | None = None,
    ) -> Optimization:
        """Run an optimizer of DSPy in this process, whose predictions run on the fleet, and register what it finds.

        Args:
            program: a registered program, ``qa``, ``qa:3`` or ``qa@prod``.
            trainset: reference of a stored dataset, a dataset, or examples with their inputs marked.
            metric: scores a prediction, as DSPy's metrics do; or its reference: ``package.module:function`` in an
                allowed package, or the name of one of DSPy's own.
            optimizer: a ``dspy`` optimizer, its class, the name of DSPy's, such as ``MIPROv2``, or the import path of
                a class in an allowed package.
            options: what its constructor takes besides the metric, if a class or a name is given.
            compile_options: what its ``compile`` takes besides program, trainset and valset.
            valset: further examples, as ``trainset``, for optimizers that take them.
            session: whose variables the predictions run under, all at its present revision.
            budget: where the optimization ends, with the best program so far.
            in_flight: predictions at a time.
            priority: of the predictions, 0 to 9, the most urgent.
            run_id: a name of the run. Started again under it, after a crash, it finds the predictions that were made.
            label: what points at the new version; None for nothing.
            author: recorded with it.
            on_progress: called with the record of the optimization while it goes on, in one of its threads.

        Raises:
            OptimizationError: the optimizer can't run on the fleet, or an example doesn't fit; nothing was tried.
            ProgramNotFoundError: there is no such program.
            StoreUnavailableError: Redis is away.
        """
        from snakepit_bridge.client.optimization.optimize import OptimizationRun
        from snakepit_bridge.client.optimization.registration import register_winner
        from snakepit_bridge.client.optimization.sources import build_request

        request = build_request(
            self,
            program,
            trainset,
            metric,
            optimizer=optimizer,
            options=options,
            compile_options=compile_options,
            valset=valset,
            session=session,
            budget=budget,
            in_flight=in_flight,
            priority=priority,
            run_id=run_id or "",
        )
        run = OptimizationRun(self, request, allowed_packages=self._allowed, on_progress=on_progress)
        return register_winner(self, request, run.run(), label=label, author=author)

    def cost(self, by: CostDimension = "program", since_s: float = 86_400.0) -> CostReport:
        """Return what predictions cost that ended lately, each counted once.

        Args:
            by: ``program``, ``session``, ``revision`` or ``profile``.
            since_s: how many seconds back, up to 35 days; the sums are by hour, and the first hour counts as a whole.

        Raises:
            ValueError: an argument can't be.
            StoreUnavailableError: Redis is away.
        """
        return run_blocking(read_costs(self.connection, FleetKeys(self.namespace), by, since_s))

    def lm_calls(self, task_id: str) -> CapturedCalls | None:
        """Return a finished prediction's LM calls; None if its worker doesn't capture them, and once they have expired.

        Raises:
            DecryptionError: they can't be decrypted.
            StoreUnavailableError: Redis is away.
        """
        from snakepit_bridge.lm.captured_calls import read_captured_calls

        return run_blocking(read_captured_calls(self.payloads, task_id))

    @overload
    def evaluate(
        self,
        program: str,
        dataset: GivenDataset,
        metric: GivenMetric,
        *,
        session: str = DEFAULT_SESSION,
        exactly: Token | str | None = None,
        arms: None = None,
        **options: Any,
    ) -> Evaluation: ...

    @overload
    def evaluate(
        self,
        program: str,
        dataset: GivenDataset,
        metric: GivenMetric,
        *,
        session: str = DEFAULT_SESSION,
        exactly: None = None,
        arms: Sequence[str],
        **options: Any,
    ) -> dict[str, Evaluation]: ...

    def evaluate(
        self,
        program: str,
        dataset: GivenDataset,
        metric: GivenMetric,
        *,
        session: str = DEFAULT_SESSION,
        exactly: Token | str | None = None,
        arms: Sequence[str] | None = None,
        **options: Any,
    ) -> Evaluation | dict[str, Evaluation]:
        """Evaluate a program on a dataset by a metric, as ``dspy.Evaluate`` does, with its predictions on the fleet.

        It is pinned to one version of the program and one revision. What was evaluated before is returned from its
        record, and an evaluation whose client was killed goes on where it was when it is run again.

        Args:
            program: as in :meth:`submit`.
            dataset: reference of a stored dataset, a dataset, or examples with their inputs marked.
            metric: a function of the example and the prediction, which runs here; or by reference, which runs on the
                workers: ``package.module:function``, the name of a metric of DSPy's own, or a :class:`MetricSpec`.
            session: whose variables it runs under.
            exactly: their revision, a token or a label; the newest if None.
            arms: several to evaluate side by side, each returned by its name: labels or tokens of the session,
                ``latest``, or labels or versions of the program.
            **options: the fields of :class:`EvaluationOptions`: ``in_flight``, ``where`` the metric runs (``client`` or
                ``workers``), ``metric_version``, ``failure_score``, ``repeat``, ``author``, ``keep_s``,
                ``keep_content`` and ``on_progress``.

        Raises:
            EvaluationError, DatasetError, MetricError: a part of it can't be; no LM was called.
            ProgramNotFoundError, SessionNotFoundError, RevisionLostError, VariableNotFoundError: what it would run
                under isn't there.
            PredictionTimeoutError: no worker makes its predictions; run it again to resume it.
            StoreUnavailableError: Redis is away.
        """
        from snakepit_bridge.client.evaluation_options import EvaluationOptions

        if arms is not None and exactly is not None:
            raise ValueError("Give arms= or exactly=, not both: each arm is a revision of its own.")
        chosen = EvaluationOptions(**options)
        if arms is not None:
            return self.evaluations.run_arms(program, dataset, metric, arms, session=session, options=chosen)
        return self.evaluations.run(program, dataset, metric, session=session, exactly=exactly, options=chosen)

    async def aevaluate(
        self,
        program: str,
        dataset: GivenDataset,
        metric: GivenMetric,
        *,
        session: str = DEFAULT_SESSION,
        exactly: Token | str | None = None,
        **options: Any,
    ) -> Evaluation:
        """Evaluate a program as :meth:`evaluate` does, from any event loop; for arms see ``evaluations.aio``."""
        from snakepit_bridge.client.evaluation_options import EvaluationOptions

        run, chosen = self.evaluations.aio.run, EvaluationOptions(**options)
        return await run(program, dataset, metric, session=session, exactly=exactly, options=chosen)

    def map_file(self, program: str, source: str | Path, output: str | Path, **options: Any) -> BulkReport:
        """Make a prediction for each line of a file of any length, and write them into another one.

        Both are JSON lines, CSV or Parquet, by their suffix. Run again with the same arguments after it was ended by
        whatever, it resumes exactly: no line is missing or twice, and what was predicted isn't paid again. How far it
        has come is kept in a file beside the output, ``OUTPUT.checkpoint``. Memory and what is in Redis don't grow with
        the file.

        Args:
            program: as in :meth:`submit`.
            source: of JSON lines each the inputs, or ``{"id": …, "inputs": {…}}``; of CSV and Parquet, the columns that
                the program has as inputs.
            output: one line for each line of the source, in the same order.
            **options: the fields of :class:`BulkOptions`: ``in_flight``, ``batch``, ``sample``, ``limit_usd``,
                ``failed``, ``id_column``, ``retry_failed``, ``keep_results``, ``timeout_s`` and ``on_progress``; and
                what :meth:`submit` takes, but no ``idempotency_key``, no ``stream`` and no ``trace``.

        Raises:
            BulkError: the files or the options don't go together, or the output is another run's.
            DatasetError: the source can't be read.
            ProgramNotFoundError, SessionNotFoundError: there is no such program, or no such session; nothing was sent.
            StoreUnavailableError: Redis stayed away; run it again to resume it.
            ValueError: an option can't be.
        """
        from snakepit_bridge.client.bulk.run import BulkOptions, BulkRun

        own = {each.name for each in fields(BulkOptions)}
        chosen = BulkOptions(**{name: value for name, value in options.items() if name in own})
        submitted = {name: value for name, value in options.items() if name not in own}
        return BulkRun(self, program, Path(source), Path(output), chosen, submitted).run()

    @cached_property
    def evaluations(self) -> Evaluations:
        """The evaluations of this fleet: run them, read their records, compare them, and check gates."""
        from snakepit_bridge.client.evaluations import AsyncEvaluations, Evaluations

        return Evaluations(AsyncEvaluations(self))

    @cached_property
    def jobs(self) -> Jobs:
        """The evaluations and optimizations that run on workers: start, watch and cancel them."""
        from snakepit_bridge.client.jobs import AsyncJobs, Jobs

        return Jobs(AsyncJobs(self))

    @cached_property
    def rollouts(self) -> Rollouts:
        """The rollouts of this fleet: start, show and steer them."""
        from snakepit_bridge.client.rollouts import AsyncRollouts, Rollouts
        from snakepit_bridge.releases.target_opener import TargetOpener

        open_target = TargetOpener(self.store, self.acks, lambda: self.registry)
        checks = ReleaseChecks(self)
        return Rollouts(AsyncRollouts(self.connection, self.namespace, open_target, self._open_session, checks))

    @cached_property
    def experiments(self) -> Experiments:
        """The experiments of this fleet: start, show and end them."""
        from snakepit_bridge.client.experiments import AsyncExperiments, Experiments

        return Experiments(
            AsyncExperiments(self.connection, self.namespace, self.store, lambda: self.registry, self._open_session)
        )

    @cached_property
    def datasets(self) -> Datasets:
        """The datasets of this fleet: add, load, compare and remove them."""
        from snakepit_bridge.client.datasets import AsyncDatasets, Datasets

        return Datasets(AsyncDatasets(self.connection, self.namespace, self.cipher))

    @cached_property
    def recorders(self) -> Recorders:
        """The recorders, which keep finished predictions of programs for datasets."""
        from snakepit_bridge.client.recorders import AsyncRecorders, Recorders

        return Recorders(AsyncRecorders(self.store, self.connection, self.namespace, self.cipher))

    @cached_property
    def judges(self) -> Judges:
        """The judges, which score a share of a program's predictions."""
        from snakepit_bridge.client.judges import AsyncJudges, Judges

        return Judges(AsyncJudges(self.store, lambda: self.registry, self.connection, self.namespace))

    def session(self, name: str = DEFAULT_SESSION, *, author: str = "") -> SessionContext:
        """Return a session of this fleet's store, to read its variables and to publish.

        What an Elixir server owns is changed there, if the fleet was told of its ``bridge``.
        """
        from snakepit_bridge.session_context import SessionContext

        return SessionContext(name, self.store, author=author, bridge=self.elixir)

    def applied(self, session: str) -> list[ProcessAck]:
        """Return which revision each live worker process that holds a session applies, or why it can't.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        return run_blocking(self.acks.read_acks(session))

    def promote(
        self,
        session: str,
        label: str,
        at: Token | str = "latest",
        *,
        wait_s: float = 30.0,
        author: str = "",
        require: GivenGates = (),
    ) -> Token:
        """Point a session's label at a revision once every live process that holds the session applies it.

        Args:
            session: its name.
            label: such as ``stable``.
            at: a token, another label, or ``latest``.
            wait_s: seconds to wait for the processes.
            author: recorded with the label.
            require: conditions on evaluations of the revision, such as ``exact(golden) >= baseline - 0.02``, with the
                program that they are evaluated with: :class:`ReleaseGates`. The baseline is what the label points at.

        Raises:
            GateFailedError: a condition isn't met; the label stays.
            RevisionNotAppliedError: a process refuses it, or doesn't apply it in time, or none holds the session.
            LabelMovedError: the label was moved by somebody else meanwhile.
            RevisionLostError: the store can't give the revision any more.
            ValueError: the label can't be one.
        """
        move = run_blocking(plan_move(self.store, session, label, at))
        run_blocking(ReleaseChecks(self).check_move(move, require))
        return run_blocking(carry_out_move(self.store, self.acks, move, wait_s, author))

    def _open_session(self, name: str, author: str) -> SessionContext:
        return self.session(name, author=author)
