"""Optimize a program: DSPy's optimizer runs here, and what it tries runs on the fleet."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any
from uuid import uuid4

import dspy

from snakepit_bridge.client.optimization.budget import BudgetSpentError, Spent
from snakepit_bridge.client.optimization.few_shot import check_on_worker, describe_few_shot, is_few_shot
from snakepit_bridge.client.optimization.remote_program import make_remote, to_local
from snakepit_bridge.client.optimization.request import OptimizationRequest, check_examples
from snakepit_bridge.client.optimization.runner import FleetRunner, RunSettings
from snakepit_bridge.client.optimization.trials import Trial, Trials
from snakepit_bridge.client.optimization.tuned_variables import (
    apply_tuned,
    find_tuned,
    is_held_by_variables,
    read_tuned,
    without_tuned,
)
from snakepit_bridge.client.prediction_client import PredictionClient
from snakepit_bridge.evaluations.optimizations import OptimizationRecord
from snakepit_bridge.exceptions import OptimizationError, SessionNotFoundError
from snakepit_bridge.lm.fleet_lm import FleetLM
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.programs.build import build_module
from snakepit_bridge.programs.imports import AllowedImports
from snakepit_bridge.programs.packages import iter_named_modules
from snakepit_bridge.programs.registry import Program
from snakepit_bridge.programs.serialize import adopt_module
from snakepit_bridge.programs.spec import ProgramSpec
from snakepit_bridge.protocol.token import Token
from snakepit_bridge.session_context import SessionContext

# So often at most progress is reported, in seconds.
_REPORT_INTERVAL_S = 0.5

OnOptimizationProgress = Callable[[OptimizationRecord], object]
"""Called with the record of an optimization that goes on."""


@dataclass(frozen=True, slots=True)
class Optimization:
    """What an optimization found.

    Attributes:
        run_id: of the run.
        optimizer: the class of the optimizer.
        parent: the program that it began with.
        module: the best program, as a local module.
        spec: its spec.
        stopped: which limit ended it; empty if the optimizer ended by itself.
        trials: what was tried, in that order.
        predictions: how many were requested.
        usd: what they cost, as decimal text, as far as their LMs have prices.
        elapsed_s: seconds.
        record: all this as the fleet keeps it.
        registered: the new version, if it was registered.
        start: the spec of the program that it began with, with the session's values in place of the bindings of its
            instructions and demos.
        variables: the values of the variables that those were bound to, as it found them.
        is_publishable: whether these variables hold all that it found.
    """

    run_id: str
    optimizer: str
    parent: Program = field(repr=False)
    module: Any = field(repr=False)
    spec: ProgramSpec = field(repr=False)
    stopped: str
    trials: tuple[Trial, ...] = field(repr=False)
    predictions: int
    usd: str
    elapsed_s: float
    record: OptimizationRecord = field(repr=False)
    registered: Program | None = field(default=None, repr=False)
    start: ProgramSpec | None = field(default=None, repr=False)
    variables: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    is_publishable: bool = False

    def publish(self, session: SessionContext, *, reason: str = "") -> Token:
        """Publish what was found as values of the variables that instructions and demos are bound to.

        The program that the optimization began with then does what was found, under that session.

        Args:
            session: where it is published.
            reason: recorded with the revision.

        Returns:
            The revision.

        Raises:
            OptimizationError: the variables don't hold all of it.
            StoreUnavailableError: the store is away.
        """
        if not self.is_publishable:
            problem = "it is more than variables hold; take the version that was registered"
            raise OptimizationError("what was found", problem)
        return session.blocking.set_variables(self.variables, reason=reason or f"found by {self.optimizer}")

    def find_trial(self, spec: ProgramSpec) -> Trial | None:
        """Return the trial of a spec; None if it was never scored."""
        digest = digest_spec(spec)
        return next((trial for trial in self.trials if trial.digest == digest), None)

    @property
    def score(self) -> float | None:
        """The mean score of the best program over the examples that it was scored on; None if it was on none."""
        trial = self.find_trial(self.spec)
        return None if trial is None else trial.mean

    @property
    def parent_score(self) -> float | None:
        """The same of the program that it began with."""
        trial = self.find_trial(self.start or self.parent.spec)
        return None if trial is None else trial.mean


class OptimizationRun:
    """One run of an optimizer. It may be watched and stopped from other threads.

    Args:
        fleet: where the predictions run.
        request: what is optimized.
        allowed_packages: packages whose classes the program's spec may name here.
        elapsed_s: seconds that the run took before, in a process that has ended.
        own_usd: returns what the optimizer's own LM calls have cost.
        on_progress: called while it goes on, in one of its threads.

    Raises:
        OptimizationError: the examples don't fit; no LM was called for it.
    """

    def __init__(
        self,
        fleet: PredictionClient,
        request: OptimizationRequest,
        *,
        allowed_packages: Sequence[str] = (),
        elapsed_s: float = 0.0,
        own_usd: Callable[[], Decimal] = lambda: Decimal(0),
        on_progress: OnOptimizationProgress | None = None,
    ) -> None:
        check_examples(request)
        self._fleet = fleet
        self._request = replace(request, run_id=request.run_id or uuid4().hex)
        self._packages = allowed_packages
        self._tuned = find_tuned(request.program.spec)
        self._settings = _settings(fleet, self._request)
        self._student = self._build_student()
        self._start = request.program.spec
        self._trials = Trials([*request.trainset, *(request.valset or ())])
        self._spent = Spent(request.budget, elapsed_s=elapsed_s, own_usd=own_usd)
        self._optimizer = ""
        self._on_progress = on_progress
        self._reporting = threading.Lock()
        self._report_at = 0.0

    def run(self) -> Optimization:
        """Run the optimizer to its end, or to the end of its budget, and return the best program.

        Raises:
            OptimizationError: the optimizer can't run on the fleet; no LM was called for it.
            BridgeError: the fleet is away, or a prediction fails as no optimizer takes it.
        """
        request = self._request
        with _client_lm():
            runner = self._open_runner()
            optimizer = request.optimizer.build(
                request.metric, self._trials.watch, request.trainset, in_flight=request.in_flight
            )
            self._optimizer = type(optimizer).__name__
            if is_few_shot(optimizer):  # the bindings hold for its student
                self._tuned = {}
                return self._conclude(*self._compile_few_shot(optimizer))
            remote = make_remote(self._student, runner)
            if self._tuned:
                self._start = runner.describe(remote)
            try:
                compiled = request.optimizer.compile(
                    optimizer, remote, request.trainset, request.valset, in_flight=request.in_flight
                )
                spec, module = runner.describe(compiled), to_local(compiled)
            except BudgetSpentError:
                best = self._trials.best()
                spec = self._start if best is None else best.spec
                module = self._build(spec)
        return self._conclude(spec, module)

    def stop(self, reason: str) -> None:
        """End the run with its next prediction.

        Args:
            reason: what ends it.
        """
        self._spent.stop(reason)

    def record(self, best: ProgramSpec | None = None) -> OptimizationRecord:
        """Return the record of the run as it stands.

        Args:
            best: the program that it found; the best so far if None.
        """
        request, spent, trials = self._request, self._spent, self._trials
        leading = trials.best()
        return OptimizationRecord(
            run_id=request.run_id,
            program=f"{request.program.name}:{request.program.version}",
            digest=digest_spec(self._start),
            optimizer=self._optimizer,
            metric=request.metric_name,
            trainset=request.trainset_name or _count(request.trainset),
            valset=request.valset_name or _count(request.valset or ()),
            session=request.session,
            token=str(self._settings.options.get("exactly", "")),
            trials=trials.describe(),
            predictions=spent.predictions,
            usd=f"{spent.usd:f}",
            own_usd=f"{spent.own_usd:f}",
            elapsed_s=round(spent.elapsed_s, 3),
            best=digest_spec(best) if best is not None else "" if leading is None else leading.digest,
            stopped=spent.reason,
        )

    def _compile_few_shot(self, optimizer: Any) -> tuple[ProgramSpec, Any]:
        """Return what KNNFewShot compiles the program to, which a worker has bound, and its module."""
        request, settings = self._request, self._settings
        compiled = request.optimizer.compile(
            optimizer, self._student, request.trainset, request.valset, in_flight=request.in_flight
        )
        module = adopt_module(compiled, request.program.name)
        spec, token = describe_few_shot(request.program, module), str(settings.options.get("exactly", ""))
        bound = check_on_worker(self._fleet, request.program, spec, request.session, token, settings.wait_s)
        run_blocking(bound)
        return spec, module

    def _conclude(self, spec: ProgramSpec, module: Any) -> Optimization:
        request, spent = self._request, self._spent
        return Optimization(
            request.run_id,
            self._optimizer,
            request.program,
            module,
            spec,
            spent.reason,
            tuple(self._trials.listed()),
            spent.predictions,
            f"{spent.usd:f}",
            spent.elapsed_s,
            self.record(spec),
            start=self._start,
            variables=read_tuned(module, self._tuned),
            is_publishable=bool(self._tuned) and is_held_by_variables(self._student, module, self._tuned),
        )

    def _open_runner(self) -> FleetRunner:
        registry = self._fleet.registry
        return FleetRunner(
            self._settings,
            without_tuned(self._request.program.spec),
            lambda name, spec: str(run_blocking(registry.store_variant(name, spec))),
            self._fleet.submit,
            self._trials,
            self._spent,
            self._report,
        )

    def _report(self) -> None:
        """Tell of the progress, unless that was done just now."""
        if self._on_progress is None:
            return
        with self._reporting:
            if (now := time.monotonic()) < self._report_at:
                return
            self._report_at = now + _REPORT_INTERVAL_S
        self._on_progress(self.record())

    def _build_student(self) -> Any:
        """Return the program as it runs under the session, as far as an optimizer changes it."""
        request = self._request
        student = self._build(request.program.spec)
        if not self._tuned:
            return student
        token = str(self._settings.options.get("exactly", "latest"))
        snapshot = run_blocking(self._fleet.store.read_at(request.session, token))
        return apply_tuned(student, self._tuned, snapshot)

    def _build(self, spec: ProgramSpec) -> Any:
        program = self._request.program.name
        if not isinstance(spec.module, str):
            raise OptimizationError("the program", "a variable chooses its module; optimize one of them at a time")
        allowed = AllowedImports((*self._packages, *iter_named_modules(spec)))
        module = build_module(spec, spec.module, allowed, program=program)
        module._bound = True  # its variables are bound on the fleet
        return module


def digest_spec(spec: ProgramSpec) -> str:
    """Return the digest by which trials know a spec."""
    return hashlib.sha256(spec.encode()).hexdigest()


def _settings(fleet: PredictionClient, request: OptimizationRequest) -> RunSettings:
    options: dict[str, Any] = {"session": request.session, "priority": request.priority}
    with suppress(SessionNotFoundError):
        options["exactly"] = request.token or run_blocking(fleet.store.head(request.session)).token
    return RunSettings(request.run_id, request.program.name, options, request.wait_s)


def _client_lm() -> AbstractContextManager[Any]:
    """Return a context in which DSPy has an LM: the one that is configured, or the fleet's by name."""
    return nullcontext() if dspy.settings.lm is not None else dspy.context(lm=FleetLM())


def _count(examples: Sequence[Any]) -> str:
    return f"{len(examples)} examples" if examples else ""
