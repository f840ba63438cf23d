"""Run one evaluation: its examples as batches on the fleet, a bounded number at a time, and a score for each.

Each example has an idempotency key of what it is evaluated under and of its content. So an evaluation that is run
again, after its client was killed or with more examples, finds the predictions that were made before and pays for the
rest alone. An example that failed in an earlier run for a reason that may have gone is sent again under another key.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, cast

import dspy

from snakepit_bridge.client.evaluation_arms import EvaluationArm
from snakepit_bridge.client.evaluation_metrics import ChosenMetric
from snakepit_bridge.client.fleet_prediction import FleetPrediction
from snakepit_bridge.client.handle import Handle
from snakepit_bridge.client.prediction_client import PredictionClient
from snakepit_bridge.costs.usage import LMUsage, decode_by_profile, sum_usage
from snakepit_bridge.datasets.dataset import Dataset
from snakepit_bridge.evaluations.records import RETRYABLE_ERRORS, ExampleResult
from snakepit_bridge.evaluations.score_values import MetricScore
from snakepit_bridge.exceptions import BridgeError, PredictionTimeoutError, StoreUnavailableError, error_text
from snakepit_bridge.process.aio import cancel_tasks
from snakepit_bridge.redis.outages import retry_through_outages
from snakepit_bridge.variables.codec import encode_canonical

MAX_BATCH = 100
"""The most examples of one message."""

PRIORITY = 3
"""The priority of evaluations' predictions, below that of applications' by default."""

# So many messages at least, if there are examples for them, so that several workers share a small dataset.
_MESSAGES = 16
# Seconds of an outage of Redis through which sending waits.
_OUTAGE_PATIENCE_S = 60.0
_MAX_PROBLEM_CHARACTERS = 1_000
_DIGEST_CHARACTERS = 32


@dataclass(slots=True)
class Progress:
    """How far evaluations have come.

    Attributes:
        total: how many examples they have, and ``ended`` how many of these have their score or error.
        errors: how many have failed.
        scores: the sum of the scores.
    """

    total: int = 0
    ended: int = 0
    errors: int = 0
    scores: float = 0.0

    def add(self, result: ExampleResult) -> None:
        """Count an example that has ended."""
        self.ended += 1
        self.errors += result.score is None
        self.scores += float(result.score or 0)


OnProgress = Callable[[Progress], None]
"""Called whenever an example has ended."""


class Slots:
    """Bounds how many examples are on their way at a time, over all arms of an evaluation.

    Args:
        count: how many.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._free = asyncio.Semaphore(count)
        # One arm at a time collects slots: of two that collect, each might hold what the other waits for.
        self._collecting = asyncio.Lock()

    async def acquire(self, count: int) -> None:
        """Wait until so many are free, and take them."""
        async with self._collecting:
            for _ in range(count):
                await self._free.acquire()

    def release(self) -> None:
        """Give one back."""
        self._free.release()


@dataclass(frozen=True, slots=True)
class EndedExample:
    """An example that has ended.

    Attributes:
        result: how it fared.
        prediction: its prediction; None if that failed.
    """

    result: ExampleResult
    prediction: FleetPrediction | None = None


@dataclass(frozen=True, slots=True)
class EvaluationRun:
    """One evaluation that is run.

    Attributes:
        client: sends the predictions.
        arm: the program and the revision.
        dataset: the examples, and ``examples`` the same as they were given.
        metric: the metric at its version.
        repeat: the number of the repetition.
        slots: bounds how many examples are on their way at a time.
        progress: how far it has come, and ``on_progress`` who is notified.
    """

    client: PredictionClient
    arm: EvaluationArm
    dataset: Dataset
    examples: Sequence[dspy.Example]
    metric: ChosenMetric
    repeat: int
    slots: Slots
    progress: Progress = field(default_factory=Progress)
    on_progress: OnProgress = field(default=lambda _: None)

    async def run(self) -> list[EndedExample]:
        """Return how each example ended, in the order of the dataset.

        Raises:
            PredictionTimeoutError: an example didn't end in time; run the evaluation again to resume it.
            StoreUnavailableError: Redis is away.
        """
        keys = self._build_keys()
        size = max(1, min(MAX_BATCH, self.slots.count, -(-len(keys) // _MESSAGES)))
        waiting: list[asyncio.Task[EndedExample]] = []
        try:
            for start in range(0, len(keys), size):
                places = range(start, min(start + size, len(keys)))
                await self.slots.acquire(len(places))
                _raise_failure(waiting)
                handles = await self._send([(place, keys[place]) for place in places])
                waiting += [
                    asyncio.create_task(self._finish(place, keys[place], handle))
                    for place, handle in zip(places, handles, strict=True)
                ]
            return await asyncio.gather(*waiting)
        finally:
            await cancel_tasks(*waiting)

    def _build_keys(self) -> list[str]:
        """Return the idempotency key of each example; equal examples count, so that each is a prediction of its own."""
        arm, pinned = self.arm, self.metric.pinned
        # What the client scores itself doesn't change what is predicted.
        scored_by = pinned.encode() if self.metric.function is None else None
        parts = [arm.reference, arm.program.digest, arm.session, arm.token, arm.values_digest, arm.lm_digest]
        parts += [scored_by, self.repeat]
        run = hashlib.sha256(encode_canonical(parts)).hexdigest()[:_DIGEST_CHARACTERS]
        occurrences, keys = Counter[str](), list[str]()
        for digest in self.dataset.example_digests:
            inputs = hashlib.sha256(encode_canonical([digest, sorted(self.dataset.inputs)])).hexdigest()
            keys.append(f"evaluation:{run}:{inputs[:_DIGEST_CHARACTERS]}:{occurrences[digest]}")
            occurrences[digest] += 1
        return keys

    async def _send(self, examples: Sequence[tuple[int, str]]) -> list[Handle]:
        metric = self.metric.pinned.encode() if self.metric.function is None else None

        def submit() -> list[Handle]:
            return self.client.submit_examples(
                self.arm.reference,
                [self._carry(place) for place, _ in examples],
                session=self.arm.session,
                exactly=self.arm.token or None,
                metric=metric,
                priority=PRIORITY,
                keys=[key for _, key in examples],
            )

        # In a thread: sending blocks. Sending the same examples twice makes each prediction once.
        return await retry_through_outages(lambda: asyncio.to_thread(submit), patience_s=_OUTAGE_PATIENCE_S)

    def _carry(self, place: int) -> dict[str, Any]:
        """Return an example as a message has it."""
        inputs = self.dataset.inputs_of(place)
        return inputs if self.metric.function is not None else {"inputs": inputs, "labels": self._labels(place)}

    def _labels(self, place: int) -> dict[str, Any]:
        return {name: value for name, value in self.dataset.rows[place].items() if name not in self.dataset.inputs}

    async def _finish(self, place: int, key: str, handle: Handle) -> EndedExample:
        """Wait for an example's end, and score it if workers don't."""
        try:
            if await _failed_before(handle):
                [handle] = await self._send([(place, f"{key}:after:{handle.id}")])
            ended = await self._await_end(place, handle)
            if self.metric.function is not None and ended.prediction is not None:
                ended = EndedExample(await self._score(place, ended.prediction, ended.result), ended.prediction)
        finally:
            self.slots.release()
        self.progress.add(ended.result)
        self.on_progress(self.progress)
        return ended

    async def _await_end(self, place: int, handle: Handle) -> EndedExample:
        try:
            prediction = await self._wait(handle)
        except (PredictionTimeoutError, StoreUnavailableError):
            raise  # they say nothing of the example
        except BridgeError as exc:
            return EndedExample(self._describe(place, handle.id, error=type(exc).__name__, problem=error_text(exc)))
        return EndedExample(self._read(place, prediction), prediction)

    async def _wait(self, handle: Handle) -> FleetPrediction:
        """Wait for a prediction, for as long as examples go on ending."""
        while True:
            before = self.progress.ended
            try:
                return await handle
            except PredictionTimeoutError:
                if self.progress.ended == before:
                    raise

    def _read(self, place: int, prediction: FleetPrediction) -> ExampleResult:
        """Return how an example fared whose prediction was made; without a score if that is the client's to give."""
        provenance, given = prediction.provenance, prediction.evaluation
        used: dict[str, Any] = {"usage": sum_usage(decode_by_profile(provenance.lm_usage).values())}
        if "usage" in given:
            used["metric_usage"] = LMUsage.decode(cast("Mapping[str, Any]", given["usage"]))
        about = {name: given[name] for name in ("score", "feedback", "error", "problem") if name in given}
        outputs = {name: prediction[name] for name in prediction.keys()}  # noqa: SIM118 (a prediction isn't a mapping)
        return self._describe(
            place, provenance.task_id, outputs=outputs, run_ms=provenance.timings.run_ms, **used, **about
        )

    def _describe(self, place: int, task_id: str, *, problem: str = "", **parts: Any) -> ExampleResult:
        return ExampleResult(
            self.dataset.example_digests[place],
            inputs=self.dataset.inputs_of(place),
            labels=self._labels(place),
            task_id=task_id,
            problem=problem[:_MAX_PROBLEM_CHARACTERS],
            **parts,
        )

    async def _score(self, place: int, prediction: FleetPrediction, result: ExampleResult) -> ExampleResult:
        assert self.metric.function is not None
        try:
            given: MetricScore = await self.metric.function.score(self.examples[place], prediction)
        except Exception as exc:  # noqa: BLE001 (metrics may raise anything)
            problem = error_text(exc)[:_MAX_PROBLEM_CHARACTERS]
            return replace(result, error=type(exc).__name__, problem=problem)
        return replace(result, score=given.value, feedback=given.feedback)


async def _failed_before(handle: Handle) -> bool:
    """Check whether a task had failed already when its handle was returned, for a reason that may have gone."""
    outcome = await handle.outcome()
    return outcome.error is not None and type(outcome.error).__name__ in RETRYABLE_ERRORS


def _raise_failure(waiting: Sequence[asyncio.Task[EndedExample]]) -> None:
    """Raise what has ended the wait for an example."""
    for task in waiting:
        if task.done() and (error := task.exception()) is not None:
            raise error
