"""Jobs: evaluations and optimizations that run on a worker, so that they survive whoever started them.

A job is named by its id, which is also the id of its Celery task. What it is given is pinned when it starts: versions
of programs and datasets, and revisions of sessions. So it does the same when another worker goes on with it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, Self

JobKind = Literal["evaluation", "optimization"]
"""What a job does."""

JobState = Literal["queued", "running", "succeeded", "failed", "cancelled"]
"""Where a job stands."""


@dataclass(frozen=True, slots=True)
class PinnedArm:
    """An arm of an evaluation.

    Attributes:
        name: as it was asked for.
        program: the program at a version, or a variant.
        session: whose variables it runs under.
        token: their revision; empty if the session was never published.
    """

    name: str
    program: str
    session: str
    token: str = ""


@dataclass(frozen=True, slots=True)
class EvaluationArguments:
    """What an evaluation's job is given.

    Attributes:
        dataset: the dataset at a version.
        metric: the fields of its :class:`MetricSpec`.
        arms: what is evaluated.
        in_flight, failure_score, repeat, keep_s, keep_content: as in ``EvaluationOptions``.
    """

    dataset: str
    metric: Mapping[str, Any]
    arms: Sequence[PinnedArm]
    in_flight: int
    failure_score: float
    repeat: int
    keep_s: int
    keep_content: bool

    def encode(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> Self:
        """Decode the JSON form; fields that a newer client added are ignored."""
        arms = tuple(PinnedArm(**_known(PinnedArm, arm)) for arm in message["arms"])
        known: dict[str, Any] = {**_known(cls, message), "arms": arms}
        return cls(**known)


@dataclass(frozen=True, slots=True)
class OptimizationArguments:
    """What an optimization's job is given.

    Attributes:
        program: the program at a version.
        trainset, valset: the datasets at a version; the second is empty for none.
        metric: the fields of its :class:`MetricSpec`.
        optimizer: the name of one of DSPy's, or the import path of a class.
        options, compile_options: what its constructor and its ``compile`` take.
        lm: the LM profile that the optimizer itself asks; empty for the default one.
        session: whose variables apply, and ``token`` their revision; empty if the session was never published.
        max_predictions, max_usd, max_s: the budget.
        in_flight, priority: of the predictions.
        label: what points at the new version; empty for nothing.
    """

    program: str
    trainset: str
    metric: Mapping[str, Any]
    optimizer: str
    options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    compile_options: Mapping[str, Any] = field(default_factory=dict[str, Any])
    valset: str = ""
    lm: str = ""
    session: str = "default"
    token: str = ""
    max_predictions: int | None = None
    max_usd: float | None = None
    max_s: float | None = None
    in_flight: int = 100
    priority: int = 0
    label: str = "candidate"

    def encode(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> Self:
        """Decode the JSON form; fields that a newer client added are ignored."""
        return cls(**_known(cls, message))


@dataclass(frozen=True, slots=True)
class JobEnd:
    """How a job ended.

    Attributes:
        state: ``succeeded``, ``failed`` or ``cancelled``.
        at: Unix seconds.
        result: of one that succeeded: by arm the id and the score of its evaluation, or the optimization's record.
        error: the class of the error of one that failed, and ``problem`` its text.
    """

    state: JobState
    at: float
    result: Mapping[str, Any] = field(default_factory=dict[str, Any])
    error: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """An evaluation or an optimization on a worker.

    Attributes:
        id: its id.
        kind: what it does.
        program: the name of the program, and ``session`` the session whose variables it reads.
        arguments: what it was given, in the JSON form.
        author: who started it.
        created_at: when, in Unix seconds.
        started_at: when a worker took it first; None before that.
        progress: of an evaluation ``total``, ``ended``, ``errors`` and ``mean``; of an optimization its record so far;
            empty before its first.
        end: how it ended; None before that.
    """

    id: str
    kind: JobKind
    program: str
    session: str
    arguments: Mapping[str, Any]
    author: str
    created_at: float
    started_at: float | None = None
    progress: Mapping[str, Any] = field(default_factory=dict[str, Any])
    end: JobEnd | None = None

    @property
    def state(self) -> JobState:
        """Where it stands."""
        if self.end is not None:
            return self.end.state
        return "queued" if self.started_at is None else "running"

    def as_dict(self) -> dict[str, Any]:
        """Return the job as JSON values."""
        end = None if self.end is None else asdict(self.end)
        return {**{name: getattr(self, name) for name in _PLAIN}, "state": self.state, "end": end}

    def encode(self) -> dict[str, Any]:
        """Return the JSON form of what never changes."""
        return {name: getattr(self, name) for name in _FIXED}

    @classmethod
    def decode(
        cls,
        message: Mapping[str, Any],
        *,
        started_at: float | None,
        progress: Mapping[str, Any],
        end: Mapping[str, Any] | None,
    ) -> Self:
        """Decode the JSON form, and add what has changed since; fields that a newer client added are ignored."""
        known = {name: message[name] for name in _FIXED}
        ended = None if end is None else JobEnd(**_known(JobEnd, end))
        return cls(**known, started_at=started_at, progress=progress, end=ended)


_FIXED = ("id", "kind", "program", "session", "arguments", "author", "created_at")
_PLAIN = (*_FIXED, "started_at", "progress")


def _known(kind: type[Any], message: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in message.items() if name in names}
