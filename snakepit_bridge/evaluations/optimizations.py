"""The record of an optimization, while it runs and afterwards: what was tried, how it did, and what it cost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Self


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One variant of the program.

    Attributes:
        number: in the order in which variants were tried first, from 1.
        digest: of its spec.
        score: its mean score, as a fraction, over the ``examples`` that it was scored on.
        examples: how many these are.
        predictions, usd, elapsed_s: what the optimization had spent when it tried the variant first.
        demos: how many demonstrations its predictors have.
        instructions: of its predictors, by their paths; those that are as in the program's signature are left out.
    """

    number: int
    digest: str
    score: float
    examples: int
    predictions: int = 0
    usd: str = "0"
    elapsed_s: float = 0.0
    demos: int = 0
    instructions: Mapping[str, str] | None = None


@dataclass(frozen=True, slots=True)
class OptimizationRecord:
    """How an optimization stands, or how it came out.

    Attributes:
        run_id: of the run.
        program: the program that it began with, ``NAME:VERSION``, and ``digest`` of its spec.
        optimizer: the class of the optimizer.
        metric: what scored predictions.
        trainset, valset: the datasets by reference, or how many examples were given; empty for none.
        session: whose variables the predictions ran under, and ``token`` their revision; empty where the session was
            never published.
        trials: what was tried and scored, in that order.
        predictions: how many were requested.
        usd: what was spent, as decimal text; ``own_usd`` is the part of the optimizer's own LM calls, as far as a
            worker made them.
        elapsed_s: seconds since its start.
        best: the digest of the program that it found; of the best so far while it runs; empty for none.
        stopped: which limit ended it; empty if none did.
        version: the number of the version that was registered; None before that.
        label: what points at it; empty for nothing.
        author: who ran it.
    """

    run_id: str
    program: str
    digest: str
    optimizer: str
    metric: str
    trainset: str
    valset: str = ""
    session: str = ""
    token: str = ""
    trials: Sequence[TrialRecord] = ()
    predictions: int = 0
    usd: str = "0"
    own_usd: str = "0"
    elapsed_s: float = 0.0
    best: str = ""
    stopped: str = ""
    version: int | None = None
    label: str = ""
    author: str = ""

    def find_trial(self, digest: str) -> TrialRecord | None:
        """Return the trial of a spec; None if it was never scored."""
        return next((trial for trial in self.trials if trial.digest == digest), None)

    @property
    def score(self) -> float | None:
        """The mean score of the best program over the examples that it was scored on; None if it was on none."""
        trial = self.find_trial(self.best)
        return None if trial is None else trial.score

    @property
    def parent_score(self) -> float | None:
        """The same of the program that it began with."""
        trial = self.find_trial(self.digest)
        return None if trial is None else trial.score

    @property
    def comparable(self) -> list[TrialRecord]:
        """The trials that were scored on more than half as many examples as any: minibatches are left out."""
        most = max((trial.examples for trial in self.trials), default=0)
        return [trial for trial in self.trials if 2 * trial.examples > most]

    def encode(self) -> dict[str, Any]:
        """Return the JSON form."""
        return asdict(self)

    @classmethod
    def decode(cls, message: Mapping[str, Any]) -> Self:
        """Decode the JSON form; fields that a newer process added are ignored."""
        trials = tuple(TrialRecord(**_known(TrialRecord, trial)) for trial in message.get("trials", ()))
        known: dict[str, Any] = {**_known(cls, message), "trials": trials}
        return cls(**known)

    def as_dict(self) -> dict[str, Any]:
        """Return the record as JSON values, with its scores."""
        return {**self.encode(), "score": self.score, "parent_score": self.parent_score}


def _known(kind: type[Any], message: Mapping[str, Any]) -> dict[str, Any]:
    names = {each.name for each in fields(kind)}
    return {name: value for name, value in message.items() if name in names}
