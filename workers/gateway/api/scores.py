"""The Scores service: what applications and people say of predictions that their grant covers."""

from __future__ import annotations

from typing import Any

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.scoring import open_scores, score_prediction
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import ScoreError
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.releases.judges import JUDGE_SCORER
from snakepit_bridge.releases.scores import DEFAULT_SCORER, Score
from snakepit_bridge.variables.codec import encode_json, parse
from workers.gateway.api.converters import timestamp_message
from workers.gateway.api.predictions import Predictions
from workers.gateway.call import ClientCall


class PredictionScores:
    """The operations on scores.

    Args:
        fleet: the fleet.
        predictions: which knows whose each prediction is.
    """

    def __init__(self, fleet: Fleet, predictions: Predictions) -> None:
        self._fleet = fleet
        self._predictions = predictions

    async def score(self, request: pb.ScoreRequest, call: ClientCall) -> pb.PredictionScore:
        """Store a score, in place of the one of the same name and scorer."""
        await self._predictions.authorized_outcome(request.id, call)
        if request.scorer == JUDGE_SCORER:
            raise ScoreError("scorer", f"'{JUDGE_SCORER}' is for the fleet's judges; name another one")
        scoring = score_prediction(
            self._fleet.results,
            self._fleet.payloads,
            request.id,
            request.name,
            _parse_value(request.value_json),
            comment=request.comment,
            scorer=request.scorer or DEFAULT_SCORER,
        )
        return _score_message(await run_on_home_loop(scoring))

    async def list(self, request: pb.ListScoresRequest, call: ClientCall) -> pb.ListScoresResponse:
        """Return a prediction's scores."""
        await self._predictions.authorized_outcome(request.id, call)
        found = await run_on_home_loop(open_scores(self._fleet.payloads).read(request.id))
        return pb.ListScoresResponse(scores=map(_score_message, found))


def _parse_value(text: bytes) -> Any:
    try:
        return parse(text)
    except ValueError as exc:
        raise ScoreError("value", f"it isn't JSON ({exc})") from exc


def _score_message(score: Score) -> pb.PredictionScore:
    return pb.PredictionScore(
        name=score.name,
        value_json=encode_json(score.value),
        comment=score.comment,
        scorer=score.scorer,
        at=timestamp_message(score.at),
    )
