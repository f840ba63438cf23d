"""The evaluations: all of them, one with its examples, and two compared with the examples that flipped."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from starlette.responses import Response

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.variables.codec import encode_json, parse
from workers.gateway.console.interval_plot import plot_shares
from workers.gateway.console.page import Page, Visit, whole_text
from workers.gateway.console.score_histogram import count_scores
from workers.gateway.errors import MalformedError

_LISTED, _JOBS = 100, 20
_PAGE_SIZE, _HISTOGRAM_SIZE = 25, 1_000
MAX_FLIPPED = 100
_EMPTY = {"score": None, "error": "", "problem": "", "feedback": "", "task_id": ""}


async def show_evaluations(visit: Visit) -> Response:
    """Show a page of evaluations, newest first, and the jobs that run some."""
    program, after = visit.query.get("program", "").strip(), visit.query.get("after", "")
    request = pb.ListEvaluationsRequest(limit=_LISTED, program=program, page_token=after)
    found, jobs = await asyncio.gather(
        visit.call("Evaluations.List", request),
        visit.call("Jobs.List", pb.ListJobsRequest(limit=_JOBS)),
    )
    return visit.render(
        "evaluations.html.j2",
        evaluations=found.evaluations,
        next_page=found.next_page_token,
        is_first=not after,
        program=program,
        programs=sorted({each.program for each in found.evaluations}),
        jobs=jobs.jobs,
    )


async def show_evaluation(visit: Visit) -> Response:
    """Show one evaluation with a page of its examples."""
    evaluation, start = visit.query.get("id", ""), visit.query.get("after", "")
    found, examples, scored = await asyncio.gather(
        visit.call("Evaluations.Get", pb.EvaluationRequest(id=evaluation)),
        _list_examples(visit, evaluation, _PAGE_SIZE, start),
        _list_examples(visit, evaluation, _HISTOGRAM_SIZE, ""),
    )
    return visit.render(
        "evaluation.html.j2",
        evaluation=found,
        record=parse(found.record_json),
        plot=plot_evaluation(found),
        histogram=count_scores([each["score"] for each in scored[0]]),
        examples=examples[0],
        first=int(start or 0) + 1,
        next_page=examples[1],
        counted=len(scored[0]),
    )


async def show_value(visit: Visit) -> Response:
    """Show the whole value of a field of an example as plain text."""
    side, name = visit.query.get("side", ""), visit.query.get("field", "")
    examples, _ = await _list_examples(visit, visit.query.get("id", ""), 1, visit.query.get("at", ""))
    values: Any = examples[0].get(side, {}) if examples else {}
    if not isinstance(values, dict) or name not in values:
        raise MalformedError("field", "the example has no such field")
    value: Any = values[name]
    return whole_text(value if isinstance(value, str) else encode_json(value))


async def show_comparison(visit: Visit) -> Response:
    """Show two evaluations side by side, and the examples whose scores differ."""
    ids = [visit.query.get(side, "") for side in ("baseline", "candidate")]
    found = await visit.call("Evaluations.Compare", pb.CompareEvaluationsRequest(baseline=ids[0], candidate=ids[1]))
    comparison: Any = parse(found.comparison_json)
    flipped: Sequence[Any] = comparison["flipped"]
    shown = [*flipped[: MAX_FLIPPED // 2], *flipped[MAX_FLIPPED // 2 :][-(MAX_FLIPPED // 2) :]]
    sides = await asyncio.gather(
        *(_index_examples(visit, each.id, shown) for each in (found.baseline, found.candidate))
    )
    return visit.render(
        "comparison.html.j2",
        comparison=found,
        arms=[("Baseline", found.baseline), ("Candidate", found.candidate)],
        plot=plot_shares([*map(_figure, ("Baseline", "Candidate"), (found.baseline, found.candidate))]),
        unpaired=comparison["unpaired"],
        flipped=shown,
        flipped_count=len(flipped),
        worse=sum(_number(each["candidate"]) < _number(each["baseline"]) for each in flipped),
        sides=sides,
    )


def plot_evaluation(evaluation: pb.Evaluation) -> Any:
    """Return the plot of an evaluation's score with its interval."""
    return plot_shares([_figure("Score", evaluation)])


def _figure(name: str, evaluation: pb.Evaluation) -> tuple[str, dict[str, Any]]:
    bounds = [evaluation.low, evaluation.high]
    return name, {"value": evaluation.score / 100, "bounds": bounds, "count": evaluation.count}


async def _list_examples(visit: Visit, evaluation: str, size: int, start: str) -> tuple[list[dict[str, Any]], str]:
    request = pb.ListEvaluationExamplesRequest(id=evaluation, page_size=size, page_token=start)
    found = await visit.call("Evaluations.ListExamples", request)
    examples: Any = parse(found.examples_json)
    return [{**_EMPTY, **example} for example in examples], found.next_page_token


async def _index_examples(visit: Visit, evaluation: str, flipped: Sequence[Any]) -> dict[str, dict[str, Any]]:
    """Return flipped examples of an evaluation by their digests, each with its place as ``at``."""
    wanted, found, token, start = {each["example"] for each in flipped}, dict[str, dict[str, Any]](), "", 0
    while wanted - found.keys():
        page, token = await _list_examples(visit, evaluation, _HISTOGRAM_SIZE, token)
        for place, example in enumerate(page, start):
            if example["digest"] in wanted:
                found.setdefault(example["digest"], {**example, "at": place})
        start += len(page)
        if not token:
            break
    return found


def _number(score: Any) -> float:
    return 0.0 if score is None else float(score)


PAGES = (
    Page("/evaluations", show_evaluations, "Evaluations.List", menu="Evaluations", section="/eval", all_sessions=True),
    Page("/evaluation", show_evaluation, "Evaluations.Get", all_sessions=True),
    Page("/evaluation/value", show_value, "Evaluations.ListExamples", all_sessions=True),
    Page("/evaluations/compare", show_comparison, "Evaluations.Compare", all_sessions=True),
)
