"""The predictions: a search of recorded ones, which follows new ones, and one with all that is known of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.variables.codec import encode_json, parse
from workers.gateway.console.page import Page, Visit, whole_text
from workers.gateway.console.pages.lm_calls import LM_CALL_PAGES, read_lm_calls
from workers.gateway.console.phase_plot import plot_phases
from workers.gateway.errors import MalformedError, PredictionNotFoundError

_PAGE_SIZE = 50
_SINCE = {"1h": 3_600.0, "24h": 86_400.0, "7d": 7 * 86_400.0}
_STATES = {
    pb.PREDICTION_STATE_QUEUED: ("idle", "Queued"),
    pb.PREDICTION_STATE_RUNNING: ("warn", "Running"),
    pb.PREDICTION_STATE_SUCCEEDED: ("ok", "Succeeded"),
    pb.PREDICTION_STATE_FAILED: ("bad", "Failed"),
    pb.PREDICTION_STATE_CANCELLED: ("idle", "Cancelled"),
}
_OPEN = (pb.PREDICTION_STATE_QUEUED, pb.PREDICTION_STATE_RUNNING)
_FILTERS = ("program", "version", "session", "outcome", "arm", "score", "since")


async def show_predictions(visit: Visit) -> Response:
    """Show the recorded predictions that are searched for, the newest first."""
    return visit.render("predictions.html.j2", **await _search(visit))


async def show_newest(visit: Visit) -> Response:
    """Show the newest of them, as a fragment."""
    return visit.render("predictions_live.html.j2", **await _search(visit))


async def show_prediction(visit: Visit) -> Response:
    """Show one prediction."""
    return visit.render("prediction.html.j2", **await _read_with_calls(visit, visit.query.get("id", "").strip()))


async def show_progress(visit: Visit) -> Response:
    """Show one prediction, as a fragment."""
    return visit.render("prediction_live.html.j2", **await _read_with_calls(visit, visit.query.get("id", "")))


async def show_value(visit: Visit) -> Response:
    """Show the whole value of an input or output as plain text."""
    side, name = visit.query.get("side", ""), visit.query.get("field", "")
    found = await _read_prediction(visit, visit.query.get("id", ""))
    values: Mapping[str, Any] = found.get(side) or {} if side in ("inputs", "outputs", "variables") else {}
    if name not in values:
        raise MalformedError("field", "the prediction has no such field")
    return whole_text(values[name] if isinstance(values[name], str) else encode_json(values[name]))


async def score_prediction(visit: Visit) -> Response:
    """Score a prediction."""
    task_id, value = visit.form_value("id"), visit.form_value("value").strip()
    request = pb.ScoreRequest(
        id=task_id,
        name=visit.form_value("name").strip(),
        value_json=value.encode() if _is_scalar(value) else encode_json(value),
        comment=visit.form_value("comment"),
        scorer=visit.grant.name or "console",
    )
    await visit.call("Scores.Score", request)
    return visit.redirect("/prediction", id=task_id, done="scored")


async def cancel_prediction(visit: Visit) -> Response:
    """Cancel a prediction."""
    task_id = visit.form_value("id")
    await visit.call("Predictions.Cancel", pb.PredictionRequest(id=task_id))
    return visit.redirect("/prediction", id=task_id, done="stepped")


async def replay_prediction(visit: Visit) -> Response:
    """Make a prediction again, and show both."""
    task_id = visit.form_value("id")
    replay = await visit.call("Predictions.Replay", pb.ReplayRequest(id=task_id, timeout_s=0.0))
    return visit.redirect("/prediction/replay", id=task_id, again=replay.again.id)


async def show_replay(visit: Visit) -> Response:
    """Show a prediction beside its repetition."""
    return visit.render("replay.html.j2", **await _read_replay(visit))


async def show_replay_progress(visit: Visit) -> Response:
    """Show a prediction beside its repetition, as a fragment."""
    return visit.render("replay_live.html.j2", **await _read_replay(visit))


async def _search(visit: Visit) -> dict[str, Any]:
    query, after = visit.query, visit.query.get("after", "")
    request = pb.SearchPredictionsRequest(
        program=query.get("program", "").strip(),
        under_session=query.get("session", "").strip(),
        outcome=query.get("outcome", "").strip(),
        arm=query.get("arm", "").strip(),
        scores=[query["score"]] if query.get("score", "").strip() else [],
        page_size=_PAGE_SIZE,
        page_token=after,
    )
    if version := query.get("version", "").strip():
        request.version = _parse_version(version)
    if query.get("since") in _SINCE:
        request.since_s = _SINCE[query["since"]]
    found = await visit.call("Predictions.Search", request)
    predictions = [
        (each, parse(each.inputs_json), parse(each.outputs_json), parse(each.scores_json)) for each in found.predictions
    ]
    return {
        "found": found,
        "predictions": predictions,
        "given": {name: query[name] for name in _FILTERS if query.get(name)},
        "filters": {name: query.get(name, "") for name in _FILTERS},
        "spans": tuple(_SINCE),
        "is_first": not after,
    }


async def _read_with_calls(visit: Visit, task_id: str) -> dict[str, Any]:
    return {**await _read_prediction(visit, task_id), **await read_lm_calls(visit, task_id)}


async def _read_prediction(visit: Visit, task_id: str) -> dict[str, Any]:
    """Return what is known of a prediction: by its result, and by what its program's recorder kept."""
    prediction, recorded = await asyncio.gather(_find(visit, task_id), _find_recorded(visit, task_id))
    if prediction is None and recorded is None:
        raise PredictionNotFoundError(task_id)
    scores = await visit.call("Scores.List", pb.ListScoresRequest(id=task_id)) if prediction else None
    state = _state_of(prediction, recorded)
    record: Any = parse(prediction.provenance.record_json) if prediction and prediction.provenance.record_json else {}
    kept = {"inputs": recorded.inputs_json, "outputs": recorded.outputs_json} if recorded else {}
    given = {"inputs": prediction.inputs_json, "outputs": prediction.outputs_json} if prediction else {}
    sides = {side: parse(given.get(side) or kept.get(side) or b"{}") for side in ("inputs", "outputs")}
    return {
        **sides,
        "id": task_id,
        "prediction": prediction,
        "recorded": recorded,
        "state": _STATES.get(state, ("idle", "Unknown")),
        "is_open": state in _OPEN,
        "has_result": state == pb.PREDICTION_STATE_SUCCEEDED and prediction is not None,
        "record": record,
        "variables": record.get("variables", {}),
        "phases": plot_phases(record["timings"]) if record else None,
        "steps": parse(prediction.trace_json) if prediction and prediction.trace_json else [],
        "completions": parse(prediction.completions_json) if prediction and prediction.completions_json else [],
        "scores": scores.scores if scores else [],
        "recorded_scores": parse(recorded.scores_json) if recorded and scores is None else {},
    }


async def _find(visit: Visit, task_id: str) -> pb.Prediction | None:
    try:
        return await visit.call("Predictions.Get", pb.PredictionRequest(id=task_id, inputs=True))
    except PredictionNotFoundError:
        return None


async def _find_recorded(visit: Visit, task_id: str) -> pb.RecordedPrediction | None:
    found = await visit.call("Predictions.Search", pb.SearchPredictionsRequest(id=task_id, page_size=1))
    return next(iter(found.predictions), None) if task_id else None


def _state_of(prediction: pb.Prediction | None, recorded: pb.RecordedPrediction | None) -> pb.PredictionState:
    if prediction is not None:
        return prediction.state
    assert recorded is not None
    return pb.PREDICTION_STATE_FAILED if recorded.error else pb.PREDICTION_STATE_SUCCEEDED


async def _read_replay(visit: Visit) -> dict[str, Any]:
    ids = [visit.query.get(name, "") for name in ("id", "again")]
    first, again = await asyncio.gather(*(_read_prediction(visit, each) for each in ids))
    names = [*first["outputs"], *(name for name in again["outputs"] if name not in first["outputs"])]
    differing = {name for name in names if first["outputs"].get(name) != again["outputs"].get(name)}
    return {
        "first": first,
        "again": again,
        "names": names,
        "differing": set[str]() if again["is_open"] else differing,
        "is_open": again["is_open"],
        "is_alike": all(first["record"].get(name) == again["record"].get(name) for name in ("token", "digest")),
    }


def _is_scalar(text: str) -> bool:
    """Check whether a text is a JSON number or boolean; anything else is a label."""
    try:
        return isinstance(parse(text), bool | int | float)
    except ValueError:
        return False


def _parse_version(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise MalformedError("version", f"it is the number of a version; got {text[:40]!r}")
    return int(text)


PAGES = (
    *LM_CALL_PAGES,
    Page("/predictions", show_predictions, "Predictions.Search", menu="Predictions", section="/prediction"),
    Page("/predictions/live", show_newest, "Predictions.Search", live=True),
    Page("/prediction", show_prediction, "Predictions.Get"),
    Page("/prediction/live", show_progress, "Predictions.Get", live=True),
    Page("/prediction/value", show_value, "Predictions.Get"),
    Page("/prediction/score", score_prediction, "Scores.Score", method="POST"),
    Page("/prediction/cancel", cancel_prediction, "Predictions.Cancel", method="POST"),
    Page("/prediction/replay", show_replay, "Predictions.Replay"),
    Page("/prediction/replay", replay_prediction, "Predictions.Replay", method="POST"),
    Page("/prediction/replay/live", show_replay_progress, "Predictions.Replay", live=True),
)
