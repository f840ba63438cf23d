"""The demo's verdict, from the LM's own log: was anything lost, torn between two revisions, or stale?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import quantiles

from snakepit_bridge.protocol.token import Token
from snakepit_bridge.testing import Recorded
from workers.dev.demo.job import Answer, Revision


@dataclass(frozen=True, slots=True)
class Row:
    """What happened under one revision."""

    revision: Revision
    number: int
    predictions: int
    modules: tuple[str, ...]
    temperatures: tuple[float, ...]
    p50_ms: float
    p95_ms: float
    accuracy: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """The counts that must be zero, and the rows of the table.

    Attributes:
        rows: one per revision.
        answered: predictions with a result.
        failed: predictions that ended in a named error, such as an answer of the LM that can't be parsed.
        lost: predictions without an end.
        torn: None where the LM keeps no log that could show it.
        stale: predictions that ran under an older revision than they required.
    """

    rows: tuple[Row, ...]
    answered: int
    failed: int
    lost: int
    torn: int | None
    stale: int

    @property
    def holds(self) -> bool:
        """Whether nothing was lost, torn or stale, and something was answered."""
        return self.answered > 0 and not (self.lost or self.torn or self.stale)


def judge(answers: Sequence[Answer], revisions: Sequence[Revision], log: Sequence[Recorded] | None) -> Verdict:
    """Judge the answers.

    Failed: a question that ended in a named error. Lost: one without any end. Torn: one whose requests, as the LM
    recorded them, differ from the values of the revision that its provenance names. Stale: one that ran under a
    revision older than the last one that had been acknowledged when it was submitted.
    """
    known = {revision.token: revision for revision in revisions}
    requests = _by_text(log or ())
    answered = [answer for answer in answers if answer.prediction is not None]
    torn = sum(not _is_consistent(answer, known, requests.get(answer.question.text, [])) for answer in answered)
    rows = [
        _row(revision, number, answered, None if log is None else requests)
        for number, revision in enumerate(revisions, start=1)
    ]
    return Verdict(
        rows=tuple(rows),
        answered=len(answered),
        failed=sum(answer.failed for answer in answers),
        lost=sum(answer.lost for answer in answers),
        torn=None if log is None else torn,
        stale=sum(_token(answer) < answer.acknowledged for answer in answered),
    )


def _is_consistent(answer: Answer, known: dict[Token, Revision], requests: list[Recorded]) -> bool:
    revision = known.get(_token(answer))
    if revision is None or not requests:
        return False
    stepwise = answer.question.program == "math" and revision.values["reasoning_strategy"] == "ChainOfThought"
    return all(
        request.temperature == revision.values["llm_temperature"]
        and request.instructions == revision.values["house_style"]
        and ("reasoning" in request.outputs) == stepwise
        for request in requests
    )


def _row(revision: Revision, number: int, answered: list[Answer], requests: dict[str, list[Recorded]] | None) -> Row:
    mine = [answer for answer in answered if _token(answer) == revision.token]
    seen = {temperature for answer in mine for temperature in _temperatures(answer, requests)}
    spread = _percentiles([answer.seconds * 1000 for answer in mine])
    right = sum(
        answer.question.is_correct(answer.prediction.toDict()) for answer in mine if answer.prediction is not None
    )
    return Row(
        revision,
        number,
        len(mine),
        tuple(sorted({answer.prediction.provenance.module for answer in mine if answer.prediction is not None})),
        tuple(sorted(value for value in seen if value is not None)),
        *spread,
        accuracy=right / len(mine) if mine else 0.0,
    )


def _temperatures(answer: Answer, requests: dict[str, list[Recorded]] | None) -> list[float | None]:
    """Return what the LM received; if it keeps no log, what the answer's provenance says was requested."""
    if requests is not None:
        return [request.temperature for request in requests.get(answer.question.text, [])]
    assert answer.prediction is not None
    return [answer.prediction.provenance.variables.get("llm_temperature")]


def _percentiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return (values[0], values[0]) if values else (0.0, 0.0)
    cuts = quantiles(values, n=20, method="inclusive")
    return cuts[9], cuts[18]


def _by_text(log: Iterable[Recorded]) -> dict[str, list[Recorded]]:
    found: dict[str, list[Recorded]] = defaultdict(list)
    for request in log:
        for text in request.inputs.values():
            found[" ".join(text.split())].append(request)
    return found


def _token(answer: Answer) -> Token:
    assert answer.prediction is not None
    return Token.parse(answer.prediction.provenance.token)
