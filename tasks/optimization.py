"""Run a DSPy optimizer in a thread of a worker.

Its own LM calls are its job's: they are limited, counted and recorded as those of a prediction are.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from contextlib import contextmanager
from decimal import Decimal
from typing import Any

import dspy

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.optimization.budget import Budget
from snakepit_bridge.client.optimization.optimize import OptimizationRun
from snakepit_bridge.client.optimization.registration import register_winner
from snakepit_bridge.client.optimization.request import OptimizationRequest
from snakepit_bridge.client.optimization.sources import build_request
from snakepit_bridge.costs.usage import PICO_PER_USD, sum_usage
from snakepit_bridge.dspy_integration.knn_few_shot import Vectorizer
from snakepit_bridge.dspy_integration.process_settings import default_settings
from snakepit_bridge.evaluations.jobs import Job, OptimizationArguments
from snakepit_bridge.evaluations.metric import MetricSpec
from snakepit_bridge.evaluations.optimizations import OptimizationRecord
from snakepit_bridge.exceptions import BridgeError, copy_error
from snakepit_bridge.lm.profiles import LMProfiles
from snakepit_bridge.process.threads import run_in_user_thread
from tasks.errors import translate_error
from tasks.prediction_context import PredictionContext, activate


class OptimizerThread:
    """One optimization that a worker runs.

    Args:
        fleet: sends its predictions, and has its datasets.
        job: the job, and ``arguments`` what it was given.
        scope: the context of the optimizer's own LM calls.
        profiles: the LMs that it may ask.
    """

    def __init__(
        self,
        fleet: Fleet,
        job: Job,
        arguments: OptimizationArguments,
        scope: PredictionContext,
        profiles: LMProfiles,
    ) -> None:
        self._fleet = fleet
        self._job = job
        self._arguments = arguments
        self._scope = scope
        self._profiles = profiles
        self._request: OptimizationRequest | None = None
        self._run: OptimizationRun | None = None

    async def open(self, *, elapsed_s: float) -> None:
        """Load what the optimization is given.

        Args:
            elapsed_s: seconds since the job began, in whatever process.

        Raises:
            BridgeError: a part of it can't be; no LM was called.
        """
        with self._translated():
            await run_in_user_thread(self._open, elapsed_s)

    async def run(self) -> OptimizationRecord:
        """Run the optimizer, register what it finds, and return the record.

        Raises:
            PredictionCancelledError: it was cancelled, and has sent its last prediction.
            LMUnavailableError: the LM that it asks is to be called again later.
            BridgeError: it failed.
        """
        assert self._run is not None
        working = asyncio.ensure_future(run_in_user_thread(self._optimize))
        try:
            await asyncio.wait([working])
        except asyncio.CancelledError:
            self._run.stop("it was cancelled")
            await asyncio.wait([working])
            working.exception()  # whatever it is, it was cancelled
            raise
        with self._translated():
            found = working.result()
        if self._scope.tally.deferred is not None:
            raise copy_error(self._scope.tally.deferred)
        return found

    def describe(self) -> dict[str, Any]:
        """Return the record as it stands, in the JSON form."""
        assert self._run is not None
        return self._run.record().encode()

    def _open(self, elapsed_s: float) -> None:
        given = self._arguments
        self._request = build_request(
            self._fleet,
            given.program,
            given.trainset,
            MetricSpec(**given.metric),
            optimizer=given.optimizer,
            options=given.options,
            compile_options=given.compile_options,
            valset=given.valset or None,
            session=given.session,
            token=given.token,
            budget=Budget(given.max_predictions, given.max_usd, given.max_s),
            in_flight=given.in_flight,
            priority=given.priority,
            run_id=self._job.id,
            open_lm=lambda name: self._profiles.choose(name, variable="lm").lm,
            open_embedder=self._open_embedder,
        )
        self._run = OptimizationRun(
            self._fleet,
            self._request,
            allowed_packages=self._fleet.allowed_packages,
            elapsed_s=elapsed_s,
            own_usd=self._read_own_usd,
        )

    def _open_embedder(self, name: str) -> Vectorizer:
        """Return what embeds the train set by an LM profile, a few hundred texts at a time."""
        embedder = dspy.Embedder(self._profiles.open_embedder(name), caching=False)
        return Vectorizer(embedder, model=name)

    def _optimize(self) -> OptimizationRecord:
        assert self._run is not None
        assert self._request is not None
        lm = self._profiles.choose(self._arguments.lm or None, variable="lm").lm
        with default_settings(), activate(self._scope), dspy.context(lm=lm):
            found = self._run.run()
        if self._scope.is_cancelled or self._scope.tally.deferred is not None:
            return found.record
        label, author = self._arguments.label or None, self._job.author
        return register_winner(self._fleet, self._request, found, label=label, author=author).record

    def _read_own_usd(self) -> Decimal:
        used = sum_usage(list(self._scope.spending.by_profile.values()))
        return Decimal(used.cost_pico) / PICO_PER_USD

    @contextmanager
    def _translated(self) -> Generator[None]:
        """Raise what an optimizer or a metric raises within the block as an error of the fleet."""
        try:
            yield
        except BridgeError:
            if self._scope.tally.deferred is not None:
                raise copy_error(self._scope.tally.deferred) from None
            raise
        except Exception as exc:
            if self._scope.tally.deferred is not None:
                raise copy_error(self._scope.tally.deferred) from exc
            raise translate_error(exc, program=self._job.program, model=self._arguments.lm) from exc
