"""Search recorded predictions: those of several programs as one list, newest first, in pages of bounded work."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from snakepit_bridge.datasets.recorded import RecordedPrediction, RecordedPredictions
from snakepit_bridge.datasets.selection import ScoreCondition, SelectedPrediction, summarize_scores
from snakepit_bridge.protocol.page_token import match_page_token
from snakepit_bridge.releases.scores import Scores

MAX_SEARCHED = 2_000
"""The most predictions that are looked at for one page."""

MAX_PAGE_BYTES = 4 * 1024 * 1024
"""A page ends with the prediction whose inputs and outputs exceed this."""

SUCCEEDED, FAILED = "succeeded", "failed"
"""Outcomes; any other one is the class of an error."""

_CHUNK = 50
TOKEN_PATTERN = r"([0-9]{1,19}-[0-9]{1,19}):([^\n]{1,300})"
"""What tokens of pages look like."""

_TOKEN = re.compile(TOKEN_PATTERN)


@dataclass(frozen=True, slots=True)
class PredictionSearch:
    """Which recorded predictions are searched for.

    Attributes:
        programs: the names of their programs.
        covers_session: whether those of a session may be shown; the name is empty if it wasn't known when they failed.
        version: the program's version; None for any.
        session, token: what they ran under; empty for any.
        outcome: ``succeeded``, ``failed`` or the class of an error; empty for any.
        arm: of a rollout or an experiment; empty for any or none.
        scores: conditions on their scores, all of which hold.
        since: when they ended at the earliest, in Unix seconds.
    """

    programs: Sequence[str]
    covers_session: Callable[[str], bool] = field(repr=False)
    version: int | None = None
    session: str = ""
    token: str = ""
    outcome: str = ""
    arm: str = ""
    scores: Sequence[ScoreCondition] = ()
    since: float = 0.0

    def covers(self, recorded: RecordedPrediction) -> bool:
        """Check whether a prediction is searched for, but for its scores."""
        return (
            self.covers_session(recorded.session)
            and self.session in ("", recorded.session)
            and self.token in ("", recorded.token)
            and self.version in (None, recorded.version)
            and self.outcome in ("", FAILED if recorded.error else SUCCEEDED, recorded.error)
            and (not self.arm or any(arm.get("arm") == self.arm for arm in recorded.arms))
        )


@dataclass(frozen=True, slots=True)
class FoundPredictions:
    """A page of what was found.

    Attributes:
        predictions: newest first.
        next_token: of the next page; empty for none.
        searched_to: when the last prediction that was looked at ended, in Unix seconds; None if none was.
    """

    predictions: Sequence[SelectedPrediction]
    next_token: str
    searched_to: float | None


@dataclass(frozen=True, slots=True)
class SearchPosition:
    """Where a page of a search ended, after which the next one begins.

    Attributes:
        position: of the last prediction that was looked at, in the records of its program.
        program: the name of that program.
    """

    position: str
    program: str

    @classmethod
    def parse(cls, token: str) -> SearchPosition | None:
        """Return the position of a token; None if it is empty, which is that of the first page.

        Raises:
            ValueError: the token can't be one.
        """
        match = match_page_token(_TOKEN, token)
        return None if match is None else cls(match[1], match[2])

    def __str__(self) -> str:
        return f"{self.position}:{self.program}"

    def bound(self, program: str) -> str:
        """Return up to which position the predictions of a program come after this one, as Redis takes it."""
        return self.position if program < self.program else f"({self.position}"


@dataclass(slots=True)
class _Cursor:
    """Where the search stands in the predictions of one program."""

    pages: AsyncGenerator[list[RecordedPrediction]]
    buffer: list[RecordedPrediction]

    async def fill(self) -> None:
        """Read more if nothing is left in the buffer, whose last prediction is the next one."""
        if not self.buffer:
            self.buffer = (await anext(self.pages, []))[::-1]


async def search_predictions(
    predictions: RecordedPredictions,
    scores: Scores,
    wanted: PredictionSearch,
    *,
    size: int,
    after: SearchPosition | None = None,
) -> FoundPredictions:
    """Return a page of recorded predictions.

    Args:
        predictions: what is recorded.
        scores: the scores of predictions.
        wanted: which of them.
        size: how many at most.
        after: where the page before it ended; None for the first.

    Raises:
        StoreUnavailableError: Redis is away.
    """
    found, searched, content_bytes = list[SelectedPrediction](), 0, 0
    last: RecordedPrediction | None = None
    async with aclosing(_merge(predictions, wanted, min(size, _CHUNK), after)) as chunks:
        async for merged in chunks:
            chunk = merged[: MAX_SEARCHED - searched]
            for each in await _select(scores, wanted, chunk):
                found.append(each)
                content_bytes += len(each.recorded.encode())
                if len(found) == size or content_bytes > MAX_PAGE_BYTES:
                    return FoundPredictions(found, str(_position_of(each.recorded)), each.recorded.at)
            last, searched = chunk[-1], searched + len(chunk)
            if searched >= MAX_SEARCHED:
                return FoundPredictions(found, str(_position_of(last)), last.at)
    return FoundPredictions(found, "", last.at if last else None)


async def _select(
    scores: Scores, wanted: PredictionSearch, chunk: Sequence[RecordedPrediction]
) -> list[SelectedPrediction]:
    covered = [recorded for recorded in chunk if wanted.covers(recorded)]
    given = await asyncio.gather(*(scores.read(recorded.task_id) for recorded in covered))
    scored = [SelectedPrediction(*each) for each in zip(covered, map(summarize_scores, given), strict=True)]
    return [each for each in scored if all(condition.holds(each.scores) for condition in wanted.scores)]


async def _merge(
    predictions: RecordedPredictions, wanted: PredictionSearch, size: int, after: SearchPosition | None
) -> AsyncGenerator[list[RecordedPrediction]]:
    """Yield the predictions of all programs in lists, in the order of the search."""
    cursors = [
        _Cursor(
            predictions.read(program, since=wanted.since, until=after.bound(program) if after else "+", page_size=size),
            [],
        )
        for program in wanted.programs
    ]
    chunk: list[RecordedPrediction] = []
    while cursors:
        await asyncio.gather(*(cursor.fill() for cursor in cursors))
        cursors = [cursor for cursor in cursors if cursor.buffer]
        while cursors and all(cursor.buffer for cursor in cursors):
            chunk.append(max(cursors, key=_next_place).buffer.pop())
        if len(chunk) >= size or (chunk and not cursors):
            yield chunk
            chunk = []


def _next_place(cursor: _Cursor) -> tuple[int, int, str]:
    """Return what the search is ordered by; two programs may have a prediction at the same position."""
    recorded = cursor.buffer[-1]
    milliseconds, _, number = recorded.position.partition("-")
    return int(milliseconds), int(number), recorded.program


def _position_of(recorded: RecordedPrediction) -> SearchPosition:
    return SearchPosition(recorded.position, recorded.program)
