"""Selection: which recorded predictions become the rows of a dataset, by score, error, revision, session and time."""

from __future__ import annotations

import asyncio
import math
import operator
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Self

from snakepit_bridge.datasets.dataset import MAX_ROWS, Dataset
from snakepit_bridge.datasets.recorded import RecordedPrediction, RecordedPredictions
from snakepit_bridge.exceptions import DatasetError
from snakepit_bridge.releases.scores import NAME_PATTERN, Score, Scores, ScoreValue

ANY_ERROR = "any"
"""The error of a selection that selects predictions that failed, whatever their error."""

_CONDITION = re.compile(rf"\s*({NAME_PATTERN})\s*(<=|>=|==|!=|=|<|>)\s*(\S.*?)\s*")
_OPERATORS: Mapping[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "=": operator.eq,
    "==": operator.eq,
    "!=": operator.ne,
}
_BOOLEANS: Mapping[str, float] = {"true": 1.0, "false": 0.0}


@dataclass(frozen=True, slots=True)
class ScoreCondition:
    """A condition on a prediction's score, such as ``helpful<0.5`` or ``tone=curt``.

    Attributes:
        name: of the score.
        comparison: one of ``<``, ``<=``, ``>``, ``>=``, ``=``, ``!=``.
        value: a number, or a label.
    """

    name: str
    comparison: str
    value: float | str

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a condition.

        Raises:
            DatasetError: it is none.
        """
        match = _CONDITION.fullmatch(text)
        if match is None:
            problem = "it is a name, one of < <= > >= = !=, and a value, such as 'helpful<0.5' or 'tone=curt'"
            raise DatasetError(f"score condition {text[:120]!r}", problem)
        name, comparison, value = match.groups()
        number = _parse_number(value)
        if isinstance(number, str) and comparison not in ("=", "==", "!="):
            problem = f"a label can only be compared by = and !=, and {value!r} is no number"
            raise DatasetError(f"score condition {text[:120]!r}", problem)
        return cls(name, comparison, number)

    def holds(self, scores: Mapping[str, ScoreValue]) -> bool:
        """Check whether it holds for a prediction's scores, by name; a score of another kind, or none, never does."""
        found = scores.get(self.name)
        if found is None or isinstance(found, str) != isinstance(self.value, str):
            return False
        return _OPERATORS[self.comparison](found, self.value)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which recorded predictions are selected.

    Attributes:
        scores: conditions on their scores, all of which hold.
        error: the class of their error, or ``any``; empty for those that succeeded.
        session: their session; empty for any.
        token: their revision; empty for any.
        version: the program's version; None for any.
        since: when they ended at the earliest, in Unix seconds.
        limit: how many at most, the newest ones.
    """

    scores: Sequence[ScoreCondition] = ()
    error: str = ""
    session: str = ""
    token: str = ""
    version: int | None = None
    since: float = 0.0
    limit: int = 1_000

    def check(self) -> Self:
        """Return the selection if it can be one.

        Raises:
            DatasetError: its limit can't be.
        """
        if not 1 <= self.limit <= MAX_ROWS:
            raise DatasetError("the selection", f"its limit is 1 to {MAX_ROWS}; got {self.limit}")
        return self

    def describe(self, program: str) -> str:
        """Return it as a line of text, for who wonders where a dataset comes from."""
        parts = [f"{each.name}{each.comparison}{each.value}" for each in self.scores]
        parts += [f"error {self.error}"] if self.error else []
        parts += [f"session {self.session}"] if self.session else []
        parts += [f"token {self.token}"] if self.token else []
        parts += [f"version {self.version}"] if self.version is not None else []
        parts += [f"since {datetime.fromtimestamp(self.since, UTC):%Y-%m-%d %H:%M}"] if self.since else []
        return f"predictions of {program}{': ' if parts else ''}{', '.join(parts)}"

    def covers(self, recorded: RecordedPrediction) -> bool:
        """Check whether a prediction is selected, but for its scores."""
        is_error = bool(recorded.error) if self.error == ANY_ERROR else recorded.error == self.error
        return (
            is_error
            and self.session in ("", recorded.session)
            and self.token in ("", recorded.token)
            and self.version in (None, recorded.version)
        )


@dataclass(frozen=True, slots=True)
class SelectedPrediction:
    """A recorded prediction with its scores by name: of several scorers their mean, or the last label."""

    recorded: RecordedPrediction
    scores: Mapping[str, ScoreValue]

    def to_row(self) -> dict[str, Any]:
        """Return its row: inputs, outputs, a column ``score_NAME`` for each score, and ``error`` if it failed.

        An output that has the name of an input is in the column ``output_NAME``.
        """
        recorded, row = self.recorded, dict(self.recorded.inputs)
        row |= {f"output_{name}" if name in row else name: value for name, value in recorded.outputs.items()}
        if recorded.error:
            row["error"] = recorded.error
        return {**row, **{f"score_{name}": value for name, value in self.scores.items()}}


async def select_predictions(
    predictions: RecordedPredictions, scores: Scores, program: str, selection: Selection
) -> list[SelectedPrediction]:
    """Return the recorded predictions of a program that are selected, oldest first.

    Args:
        predictions: what is recorded.
        scores: the scores of predictions.
        program: its name.
        selection: which of them.

    Raises:
        StoreUnavailableError: Redis is away.
    """
    found: list[SelectedPrediction] = []
    async for page in predictions.read(program, since=selection.since):
        covered = [recorded for recorded in page if selection.covers(recorded)]
        of_each = await asyncio.gather(*(scores.read(recorded.task_id) for recorded in covered))
        for recorded, given in zip(covered, of_each, strict=True):
            by_name = summarize_scores(given)
            if all(condition.holds(by_name) for condition in selection.scores):
                found.append(SelectedPrediction(recorded, by_name))
        if len(found) >= selection.limit:
            break
    return found[: selection.limit][::-1]


def build_from_predictions(name: str, program: str, selected: Sequence[SelectedPrediction]) -> Dataset:
    """Return a dataset of selected predictions, which isn't stored.

    Its inputs are those of the predictions; an input that some of them lack is missing from their rows.

    Raises:
        DatasetError: none are selected, or a prediction can't be an example.
    """
    if not selected:
        problem = (
            f"none of the recorded predictions of '{program}' is selected; see what is recorded with: "
            f"dspex-fleet record show"
        )
        raise DatasetError(f"dataset '{name}'", problem)
    inputs = dict.fromkeys(field for each in selected for field in each.recorded.inputs)
    missing = {field for field in inputs for each in selected if field not in each.recorded.inputs}
    marked = [f"{field}?" if field in missing else field for field in inputs]
    rows = ((f"prediction {each.recorded.task_id}", each.to_row()) for each in selected)
    return Dataset.of_examples(name, rows, inputs=marked)


def summarize_scores(scores: Iterable[Score]) -> dict[str, ScoreValue]:
    """Return one value for each name: the mean of numbers and booleans, or the label that was given last."""
    by_name: dict[str, list[Score]] = {}
    for score in sorted(scores, key=lambda each: each.at):
        by_name.setdefault(score.name, []).append(score)
    return {name: _summarize(given) for name, given in by_name.items()}


def _summarize(given: Sequence[Score]) -> ScoreValue:
    numbers = [float(score.value) for score in given if not isinstance(score.value, str)]
    return sum(numbers) / len(numbers) if numbers else given[-1].value


def _parse_number(text: str) -> float | str:
    if text in _BOOLEANS:
        return _BOOLEANS[text]
    try:
        number = float(text)
    except ValueError:
        return text
    return number if math.isfinite(number) else text
