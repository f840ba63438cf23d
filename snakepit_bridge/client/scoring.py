"""Scoring predictions: which arms a score counts for is read from the prediction's stored result."""

from __future__ import annotations

from snakepit_bridge.client.results import Results
from snakepit_bridge.delivery.payloads import Payloads
from snakepit_bridge.exceptions import PredictionNotScorableError
from snakepit_bridge.releases.scores import DEFAULT_SCORER, Score, Scores, ScoreValue, read_arms
from snakepit_bridge.rollouts.records import ArmAssignment


async def score_prediction(
    results: Results,
    payloads: Payloads,
    task_id: str,
    name: str,
    value: ScoreValue,
    *,
    comment: str = "",
    scorer: str = DEFAULT_SCORER,
) -> Score:
    """Store a score of a prediction that has ended, and return it. On the home loop.

    One that failed has no provenance, so that its scores count for no arm of a rollout.

    Args:
        results, payloads: the fleet's.
        task_id: the prediction.
        name, value, comment, scorer: see :class:`Score`.

    Raises:
        ScoreError: a part of the score can't be, or the prediction has too many; nothing was stored.
        PredictionNotScorableError: the prediction has no result.
        PayloadLostError: its result was stored beside its message, and isn't there any more.
        StoreUnavailableError: Redis is away.
    """
    given = Score.check(name, value, comment, scorer)
    seconds, micros = await payloads.connection.execute_read("TIME")
    now_s = int(seconds) + int(micros) / 1e6
    score = Score(given.name, given.value, given.comment, given.scorer, now_s)
    arms = await _find_arms(results, payloads, task_id)
    await open_scores(payloads).put(task_id, results.key_of(task_id), arms, score, now_s=now_s)
    return score


def open_scores(payloads: Payloads) -> Scores:
    """Return the scores of the fleet that these payloads belong to."""
    return Scores(payloads.connection, payloads.namespace)


async def _find_arms(results: Results, payloads: Payloads, task_id: str) -> list[ArmAssignment]:
    """Return the arms that a finished prediction ran under."""
    outcome = await results.outcome(task_id)
    if not outcome.ready:
        raise PredictionNotScorableError(task_id)
    if outcome.result is None:
        return []
    return read_arms((await payloads.load_result(outcome.result, task_id)).provenance)
