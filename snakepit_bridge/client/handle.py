"""Handle: one submitted prediction, to wait for, follow, look at or cancel, in this process or any other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Generator
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from celery.states import PENDING

from snakepit_bridge.client.results import TaskResult
from snakepit_bridge.client.scoring import open_scores, score_prediction
from snakepit_bridge.exceptions import PredictionTimeoutError, PredictionUnknownError, StoreUnavailableError
from snakepit_bridge.process.home_loop import run_blocking, run_on_home_loop
from snakepit_bridge.redis.outages import retry_through_outages
from snakepit_bridge.releases.scores import DEFAULT_SCORER, Score, ScoreValue

if TYPE_CHECKING:
    from snakepit_bridge.client.fleet_prediction import FleetPrediction
    from snakepit_bridge.client.results import Results
    from snakepit_bridge.client.stream import ChunkReader, StreamChunk
    from snakepit_bridge.client.task_lookup import TaskFinder
    from snakepit_bridge.delivery.payloads import Payloads
    from snakepit_bridge.protocol.messages import Result

# How long to wait for a result before looking the task up in the broker.
_FIRST_WAIT_S = 3.0
_MAX_LOOKUPS = 3


class Handle:
    """A prediction on the fleet.

    Args:
        task_id: id of its task; enough to make another handle for it anywhere.
        results: the results of the process.
        pieces: the pieces of answers that the process follows.
        payloads: where results are that are too large for a message.
        wait_s: seconds that waiting takes at most, unless a call says otherwise.
        replies: the channel that its request named, where that is known.
        finder: looks for it where there is no result; None where the broker can't be looked into.
    """

    def __init__(
        self,
        task_id: str,
        results: Results,
        pieces: ChunkReader,
        payloads: Payloads,
        wait_s: float,
        replies: str | None = None,
        finder: TaskFinder | None = None,
    ) -> None:
        self.id = task_id
        self._results = results
        self._chunks = pieces
        self._payloads = payloads
        self._wait_s = wait_s
        self._replies = replies
        self._finder = finder

    def __repr__(self) -> str:
        return f"Handle({self.id!r})"

    @property
    def reply_channel(self) -> str | None:
        """The channel on which its end is announced, where that is known."""
        return self._replies

    @property
    def status(self) -> str:
        """Celery's state of the task: PENDING (also of an unknown id), RETRY, SUCCESS, FAILURE or REVOKED."""
        return run_blocking(self.outcome()).state

    def ready(self) -> bool:
        """Return whether the prediction has ended, successfully or not."""
        return run_blocking(self.outcome()).ready

    async def outcome(self) -> TaskResult:
        """Return the current state of the prediction, from any event loop.

        Raises:
            StoreUnavailableError: the result backend is away.
        """
        return await run_on_home_loop(self._results.outcome(self.id))

    def get(self, timeout: float | None = None) -> FleetPrediction:
        """Wait for the prediction and return it, with its provenance.

        Args:
            timeout: seconds to wait; the fleet's own bound if None.

        Raises:
            PredictionTimeoutError: there was no result in time; the prediction goes on.
            PredictionUnknownError: nothing is known of it, which is found out within seconds.
            PayloadLostError: the result was stored beside its message, and isn't there any more.
            BridgeError: the prediction ended with this error.
        """
        return run_blocking(self._get(timeout))

    def __await__(self) -> Generator[Any, None, FleetPrediction]:
        return run_on_home_loop(self._get(None)).__await__()

    async def stream(self) -> AsyncGenerator[StreamChunk]:
        """Yield the pieces of the answer as the LM writes them, until the prediction has ended, from any event loop.

        All of them from the first one, however late one begins, as long as the fleet keeps them. There are none where
        the prediction wasn't submitted with ``stream=True``. How it ended is what ``await handle`` returns or raises.

        Raises:
            PredictionTimeoutError: it hasn't ended within the fleet's bound.
            PredictionUnknownError: nothing is known of it, which is found out within seconds.
            StoreUnavailableError: Redis is away.
        """
        following = self._chunks.open(self.id, self._wait_s, wait_for_end=self._wait_for_known_end)
        try:
            while chunks := await run_on_home_loop(following.read()):
                for piece in chunks:
                    yield piece
        finally:
            await run_on_home_loop(following.aclose())

    def cancel(self, *, author: str = "") -> bool:
        """Cancel the prediction unless it has ended; return whether it is cancelled.

        The cancellation is stored before this returns, and every waiting caller gets it. A worker that runs the
        prediction breaks off its LM request; one that gets it later drops it.

        Args:
            author: who cancels it, for the audit trail.

        Raises:
            StoreUnavailableError: the result backend is away.
        """
        return run_blocking(self._results.cancel(self.id, author=author))

    async def acancel(self, *, author: str = "") -> bool:
        """Cancel the prediction as :meth:`cancel` does, from any event loop."""
        return await run_on_home_loop(self._results.cancel(self.id, author=author))

    def score(self, name: str, value: ScoreValue, *, comment: str = "", scorer: str = DEFAULT_SCORER) -> Score:
        """Say how good the prediction was, once it has ended; return the stored score.

        It replaces the score of the same name and scorer, and is kept as long as the prediction's result. It counts
        for the arms of rollouts that the prediction ran under; one of a prediction that failed counts for none.

        Args:
            name: what is scored, such as ``helpful``.
            value: a number from 0 to 1, a boolean, which counts as 0 or 1, or a label of up to 100 characters, which
                is counted and not averaged.
            comment: why, up to 4 KiB.
            scorer: who says so.

        Raises:
            ScoreError: a part of the score can't be, or the prediction has too many; nothing was stored.
            PredictionNotScorableError: the prediction has no result: it goes on, is unknown, or the result expired.
            PayloadLostError: the result was stored beside its message, and isn't there any more.
            StoreUnavailableError: Redis is away.
        """
        return run_blocking(self._score(name, value, comment, scorer))

    async def ascore(self, name: str, value: ScoreValue, *, comment: str = "", scorer: str = DEFAULT_SCORER) -> Score:
        """Score the prediction as :meth:`score` does, from any event loop."""
        return await run_on_home_loop(self._score(name, value, comment, scorer))

    def scores(self) -> list[Score]:
        """Return the prediction's scores, by name and scorer; none where nobody scored it.

        Neither has a prediction that was never submitted, or whose result has expired: nothing tells these apart.

        Raises:
            StoreUnavailableError: Redis is away.
        """
        return run_blocking(open_scores(self._payloads).read(self.id))

    async def _score(self, name: str, value: ScoreValue, comment: str, scorer: str) -> Score:
        return await score_prediction(
            self._results, self._payloads, self.id, name, value, comment=comment, scorer=scorer
        )

    async def _get(self, wait_s: float | None) -> FleetPrediction:
        wait_s = self._wait_s if wait_s is None else wait_s
        result = await self._result(wait_s)
        kind = _prediction_type or await asyncio.to_thread(_load_prediction_type)
        return kind.from_result(
            await retry_through_outages(lambda: self._payloads.load_result(result, self.id), patience_s=wait_s)
        )

    async def _result(self, wait_s: float) -> Result:
        first_s = min(wait_s, _FIRST_WAIT_S) if self._may_be_unknown else wait_s
        try:
            return await self._results.wait(self.id, first_s, self._replies)
        except PredictionTimeoutError:
            place = await self._locate(first_s < wait_s)
            if first_s >= wait_s:
                raise PredictionTimeoutError(self.id, wait_s, place) from None
        except StoreUnavailableError:
            if first_s >= wait_s:
                raise
        try:
            return await self._results.wait(self.id, wait_s - first_s, self._replies)
        except PredictionTimeoutError:
            raise PredictionTimeoutError(self.id, wait_s, await self._locate(False)) from None

    async def _wait_for_known_end(self) -> TaskResult:
        """Return how the prediction ended.

        Raises:
            PredictionUnknownError: nothing is known of it.
        """
        if self._may_be_unknown:
            with suppress(TimeoutError):
                async with asyncio.timeout(_FIRST_WAIT_S):
                    return await self._results.wait_for_end(self.id)
            await self._results.retry_through_outages(lambda: self._locate(True))
        return await self._results.wait_for_end(self.id, self._replies)

    @property
    def _may_be_unknown(self) -> bool:
        """Whether this process didn't submit it, and can look for it."""
        return self._finder is not None and self._replies is None

    async def _locate(self, must_be_known: bool) -> str:
        """Return where the prediction is, as far as known.

        Raises:
            PredictionUnknownError: it is nowhere, and must be somewhere.
        """
        if self._finder is None:
            return ""
        for _ in range(_MAX_LOOKUPS):
            found = await self._finder.find(self.id)
            # Between two reads a message can move from one place to the other, or its result come.
            if found.place or not found.certain or (await self._results.outcome(self.id)).state != PENDING:
                return found.place
        if must_be_known:
            raise PredictionUnknownError(self.id, str(self._finder))
        return f"isn't in {self._finder} either"


# DSPy takes seconds to load: with the first prediction, beside the loop, and not when the client is imported.
_prediction_type: type[FleetPrediction] | None = None


def _load_prediction_type() -> type[FleetPrediction]:
    global _prediction_type
    from snakepit_bridge.client.fleet_prediction import FleetPrediction

    _prediction_type = FleetPrediction
    return FleetPrediction
