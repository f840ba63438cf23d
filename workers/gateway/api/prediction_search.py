"""The search of recorded predictions: those of the sessions that the caller's grant covers."""

from __future__ import annotations

import time

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.scoring import open_scores
from snakepit_bridge.datasets.recorded import RecordedPredictions
from snakepit_bridge.datasets.search import FoundPredictions, PredictionSearch, SearchPosition, search_predictions
from snakepit_bridge.datasets.selection import ScoreCondition, SelectedPrediction, summarize_scores
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.process.home_loop import run_on_home_loop
from snakepit_bridge.variables.codec import encode_json
from workers.gateway.api.converters import arm_message, timestamp_message
from workers.gateway.call import MAX_ID_LENGTH, ClientCall, require_name, require_seconds
from workers.gateway.errors import MalformedError
from workers.gateway.json_text import to_strict_json

_DEFAULT_SIZE, _MAX_SIZE = 50, 200


class GatewayPredictionSearch:
    """The operation that searches recorded predictions.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._recorded = RecordedPredictions(fleet.payloads.connection, fleet.namespace, fleet.cipher)
        self._scores = open_scores(fleet.payloads)

    async def search(self, request: pb.SearchPredictionsRequest, call: ClientCall) -> pb.SearchPredictionsResponse:
        """Return a page of recorded predictions."""
        after = _parse_page_token(request.page_token)
        programs = [request.program] if request.program else await self._recorded_programs()
        wanted = PredictionSearch(
            programs,
            call.grant.covers,
            request.version if request.HasField("version") else None,
            request.under_session,
            request.under_token,
            request.outcome,
            request.arm,
            [ScoreCondition.parse(text) for text in request.scores],
            time.time() - require_seconds(request.since_s, "since_s") if request.HasField("since_s") else 0.0,
        )
        if request.id:
            return _response(await run_on_home_loop(self._find(require_name(request.id, "id", MAX_ID_LENGTH), wanted)))
        size = min(request.page_size or _DEFAULT_SIZE, _MAX_SIZE)
        searching = search_predictions(self._recorded, self._scores, wanted, size=size, after=after)
        return _response(await run_on_home_loop(searching))

    async def _recorded_programs(self) -> list[str]:
        return [report.recorder.program for report in await self._fleet.recorders.aio.list()]

    async def _find(self, task_id: str, wanted: PredictionSearch) -> FoundPredictions:
        recorded = await self._recorded.find(task_id)
        if recorded is None or not wanted.covers(recorded):
            return FoundPredictions([], "", None)
        scores = summarize_scores(await self._scores.read(task_id))
        return FoundPredictions([SelectedPrediction(recorded, scores)], "", recorded.at)


def _parse_page_token(token: str) -> SearchPosition | None:
    try:
        return SearchPosition.parse(token)
    except ValueError as exc:
        raise MalformedError("page_token", str(exc)) from exc


def _response(found: FoundPredictions) -> pb.SearchPredictionsResponse:
    return pb.SearchPredictionsResponse(
        predictions=map(_recorded_message, found.predictions),
        next_page_token=found.next_token,
        searched_to=None if found.searched_to is None else timestamp_message(found.searched_to),
    )


def _recorded_message(found: SelectedPrediction) -> pb.RecordedPrediction:
    recorded = found.recorded
    return pb.RecordedPrediction(
        id=recorded.task_id,
        program=recorded.program,
        version=recorded.version,
        session=recorded.session,
        token=recorded.token,
        inputs_json=encode_json(to_strict_json(recorded.inputs)),
        outputs_json=encode_json(to_strict_json(recorded.outputs)),
        error=recorded.error,
        model=recorded.model,
        arms=map(arm_message, recorded.arms),
        scores_json=encode_json(to_strict_json(found.scores)),
        at=timestamp_message(recorded.at),
    )
