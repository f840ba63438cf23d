"""The record of an evaluation: what was evaluated on what, how it came out, and how each example fared."""

from __future__ import annotations

import hashlib
import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from statistics import fmean
from typing import Any, Self, cast

from snakepit_bridge.costs.usage import LMUsage, sum_usage
from snakepit_bridge.evaluations.intervals import MeanInterval, interval_of_mean
from snakepit_bridge.variables.codec import encode_canonical, encode_json, parse

RETRYABLE_ERRORS = frozenset({
    "DeadlineExceededError", "LMUnavailableError", "PayloadLostError", "PredictionCancelledError",
    "PredictionGivenUpError", "StoreUnavailableError",
})  # fmt: skip
"""The errors of examples that are tried again when the same evaluation is run again."""

_ID_CHARACTERS = 32


@dataclass(frozen=True, slots=True)
class EvaluationKey:
    """What an evaluation is of. Equal keys are one evaluation, which is run once.

    Attributes:
        program_digest: of the program's spec.
        values_digest: of the values of the session's variables that the program reads.
        dataset_digest: of the examples.
        metric_digest: of the metric at its version.
        failure_score: the score of an example that failed.
        repeat: the number of the repetition; another one is another evaluation.
        lm_digest: of the LM that the program calls: its models, endpoints and settings.
    """

    program_digest: str
    values_digest: str
    dataset_digest: str
    metric_digest: str
    failure_score: float = 0.0
    repeat: int = 0
    lm_digest: str = ""

    @property
    def id(self) -> str:
        """The id of the evaluation."""
        return hashlib.sha256(encode_canonical(asdict(self))).hexdigest()[:_ID_CHARACTERS]


@dataclass(frozen=True, slots=True)
class EvaluationSubject:
    """What was evaluated, by the names that it had then.

    Attributes:
        program: its name, and ``version`` its number.
        session: whose variables it ran under, and ``token`` their revision; the token is empty if the session was never
            published.
        dataset: its name, and ``dataset_version`` its number; empty and 0 of a list of examples.
        metric: the metric's name, and ``metric_reference`` where it is from.
        ran_on: where the metric ran: ``workers`` or ``client``.
    """

    program: str
    version: int
    session: str
    token: str
    dataset: str
    dataset_version: int
    metric: str
    metric_reference: str
    ran_on: str

    def __str__(self) -> str:
        revision = f" at {self.token}" if self.token else ""
        return f"{self.program}:{self.version} under {self.session}{revision}"


@dataclass(frozen=True, slots=True)
class ExampleResult:
    """How one example fared.

    Attributes:
        digest: of the example.
        score: what the metric gave; None if the prediction or the metric failed.
        error: the name of the error that it failed with, and ``problem`` its text; empty if it has a score.
        feedback: what the metric said.
        inputs, labels: the example.
        outputs: the prediction's; empty if it failed.
        task_id: the prediction's task.
        run_ms: how long the program and its metric ran, in milliseconds.
        usage: what the LM calls of both used, and ``metric_usage`` the part of the metric.
    """

    digest: str
    score: float | bool | None = None
    error: str = ""
    problem: str = ""
    feedback: str = ""
    inputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    labels: Mapping[str, Any] = field(default_factory=dict[str, Any])
    outputs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    task_id: str = ""
    run_ms: float | None = None
    usage: LMUsage = field(default_factory=LMUsage)
    metric_usage: LMUsage = field(default_factory=LMUsage)

    def encode(self) -> dict[str, Any]:
        """Return the JSON form, without what is empty."""
        plain = {name: getattr(self, name) for name in _PLAIN if getattr(self, name) not in (None, "", {})}
        used = {name: getattr(self, name) for name in _USAGES}
        return plain | {name: usage.encode() for name, usage in used.items() if usage.calls}

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> Self:
        """Decode the JSON form; fields that a newer client added are ignored."""
        used: dict[str, Any] = {name: LMUsage.decode(message[name]) for name in _USAGES if name in message}
        return cls(**{name: message[name] for name in _PLAIN if name in message}, **used)


_USAGES = ("usage", "metric_usage")
_PLAIN = tuple(each.name for each in fields(ExampleResult) if not each.name.endswith("usage"))


@dataclass(frozen=True, slots=True)
class EvaluationRecord:
    """How an evaluation came out.

    Attributes:
        key: what it is of.
        subject: the same by name.
        count: how many examples, ``errors`` how many of them failed, and ``retryable`` how many of those may do
            better the next time, such as for an LM that was away.
        mean: the mean score, with ``failure_score`` for those that failed, as a fraction.
        interval: of the mean.
        usage: what the LM calls of all predictions and metrics used, and ``metric_usage`` the part of the metric.
        p50_ms, p95_ms: quantiles of the examples' ``run_ms``; None if none was measured.
        started_at, ended_at: Unix seconds by the client's clock.
        author: who ran it.
    """

    key: EvaluationKey
    subject: EvaluationSubject
    count: int
    errors: int
    retryable: int
    mean: float
    interval: MeanInterval
    usage: LMUsage
    metric_usage: LMUsage
    p50_ms: float | None
    p95_ms: float | None
    started_at: float
    ended_at: float
    author: str = ""

    @classmethod
    def build(
        cls,
        key: EvaluationKey,
        subject: EvaluationSubject,
        results: Sequence[ExampleResult],
        *,
        started_at: float,
        ended_at: float,
        author: str = "",
    ) -> Self:
        """Return the record of these results.

        Args:
            key, subject: what was evaluated.
            results: of each example, at least one.
            started_at, ended_at: Unix seconds.
            author: who ran it.
        """
        scores = [score_of(result, key.failure_score) for result in results]
        durations = sorted(result.run_ms for result in results if result.run_ms is not None)
        return cls(
            key,
            subject,
            len(results),
            sum(result.score is None for result in results),
            sum(result.error in RETRYABLE_ERRORS for result in results),
            fmean(scores),
            interval_of_mean(scores),
            sum_usage(result.usage for result in results),
            sum_usage(result.metric_usage for result in results),
            _quantile(durations, 0.5),
            _quantile(durations, 0.95),
            started_at,
            ended_at,
            author,
        )

    @property
    def id(self) -> str:
        """The id of the evaluation."""
        return self.key.id

    @property
    def score(self) -> float:
        """The mean score in percent, rounded as ``dspy.Evaluate`` does."""
        return round(100 * self.mean, 2)

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON values."""
        return {"id": self.id, "score": self.score, **self.encode()}

    def encode(self) -> dict[str, Any]:
        """Return the JSON form."""
        about = {"key": asdict(self.key), "subject": asdict(self.subject), "interval": self.interval.encode()}
        used = {name: getattr(self, name).encode() for name in _USAGES}
        return about | used | {name: getattr(self, name) for name in _SIMPLE}

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> Self:
        """Decode the JSON form; fields that a newer client added are ignored."""
        return cls(
            key=EvaluationKey(**_known(EvaluationKey, message["key"])),
            subject=EvaluationSubject(**_known(EvaluationSubject, message["subject"])),
            interval=MeanInterval.decode(message["interval"]),
            usage=LMUsage.decode(message["usage"]),
            metric_usage=LMUsage.decode(message["metric_usage"]),
            **{name: message[name] for name in _SIMPLE},
        )


_SIMPLE = ("count", "errors", "retryable", "mean", "p50_ms", "p95_ms", "started_at", "ended_at", "author")


def score_of(result: ExampleResult, failure_score: float) -> float:
    """Return an example's score as a number, with ``failure_score`` if it failed."""
    return failure_score if result.score is None else float(result.score)


def encode_results(results: Sequence[ExampleResult]) -> bytes:
    """Return the results of examples as compressed JSON."""
    return zlib.compress(encode_json([result.encode() for result in results]))


def decode_results(stored: bytes) -> list[ExampleResult]:
    """Decode what :func:`encode_results` returned."""
    return [ExampleResult.decode(message) for message in cast("list[dict[str, Any]]", parse(zlib.decompress(stored)))]


def drop_content(results: Sequence[ExampleResult]) -> list[ExampleResult]:
    """Return the results without inputs, labels, outputs and feedback, which may be confidential or large."""
    return [replace(result, inputs={}, labels={}, outputs={}, feedback="") for result in results]


def _known(kind: type[EvaluationKey | EvaluationSubject], message: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in message.items() if name in names}


def _quantile(ordered: Sequence[float], share: float) -> float | None:
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)] if ordered else None
