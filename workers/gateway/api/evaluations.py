"""The Evaluations and Optimizations services, which start jobs on workers, and read what evaluations came to.

The first call imports DSPy, as that of programs does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, cast

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.optimization.budget import Budget
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.evaluations.jobs import Job
from snakepit_bridge.evaluations.metric import MetricSpec
from snakepit_bridge.evaluations.record_store import KEEP_S, EvaluationPlace
from snakepit_bridge.evaluations.records import EvaluationRecord
from snakepit_bridge.exceptions import MetricError
from snakepit_bridge.protocol.messages import DEFAULT_SESSION
from snakepit_bridge.variables.codec import encode_json, parse
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api.converters import timestamp_message, usage_message
from workers.gateway.api.jobs import JobStarts, load_jobs
from workers.gateway.api.pages import page_size, slice_page
from workers.gateway.api.targets import require_all_sessions
from workers.gateway.call import MAX_ID_LENGTH, ClientCall, require_name
from workers.gateway.errors import MalformedError
from workers.gateway.json_text import to_strict_json
from workers.gateway.loading import load_in_thread

if TYPE_CHECKING:
    from snakepit_bridge.client.evaluation_options import EvaluationOptions
    from snakepit_bridge.client.evaluations import AsyncEvaluations

_METRIC_OPTIONS = frozenset(each.name for each in fields(MetricSpec)) - {"reference"}
_IN_FLIGHT_OF_OPTIMIZATIONS = 100


class GatewayEvaluations:
    """The operations on evaluations.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._starts = JobStarts(fleet)

    async def start(self, request: pb.StartEvaluationRequest, call: ClientCall) -> pb.Job:
        """Start an evaluation on a worker."""
        require_all_sessions(call, GrantScope.RELEASE)
        metric, jobs = _parse_metric(request), await load_jobs(self._fleet)

        async def start(job_id: str, author: str) -> Job:
            return await jobs.evaluate(
                require_name(request.program, "program"),
                require_name(request.dataset, "dataset"),
                metric,
                session=request.session or DEFAULT_SESSION,
                exactly=request.exactly or None,
                arms=list(request.arms) or None,
                options=_parse_options(request, author),
                job_id=job_id,
            )

        return await self._starts.start(request, call, start)

    async def list(self, request: pb.ListEvaluationsRequest, call: ClientCall) -> pb.ListEvaluationsResponse:
        """Return a page of evaluations, newest first."""
        require_all_sessions(call, GrantScope.READ)
        try:
            after = EvaluationPlace.parse(request.page_token)
        except ValueError as exc:
            raise MalformedError("page_token", str(exc)) from exc
        evaluations = await self._load()
        found = await evaluations.read_page(size=page_size(request.limit), program=request.program, after=after)
        messages = map(_record_message, found.records)
        return pb.ListEvaluationsResponse(evaluations=messages, next_page_token=found.next_token)

    async def get(self, request: pb.EvaluationRequest, call: ClientCall) -> pb.Evaluation:
        """Return an evaluation."""
        evaluation = _require_id(request.id, "id", call)
        return _record_message(await (await self._load()).get(evaluation))

    async def list_examples(
        self, request: pb.ListEvaluationExamplesRequest, call: ClientCall
    ) -> pb.ListEvaluationExamplesResponse:
        """Return a page of how an evaluation's examples fared."""
        evaluation = _require_id(request.id, "id", call)
        results = await (await self._load()).results(evaluation)
        page, next_page = slice_page(results, request.page_size, request.page_token)
        text = encode_json(to_strict_json([result.encode() for result in page]))
        return pb.ListEvaluationExamplesResponse(examples_json=text, next_page_token=next_page)

    async def compare(self, request: pb.CompareEvaluationsRequest, call: ClientCall) -> pb.EvaluationComparison:
        """Compare two evaluations."""
        baseline = _require_id(request.baseline, "baseline", call)
        candidate = _require_id(request.candidate, "candidate", call)
        found = await (await self._load()).compare(baseline, candidate)
        return pb.EvaluationComparison(
            baseline=_record_message(found.baseline),
            candidate=_record_message(found.candidate),
            difference=found.difference,
            low=found.interval.low,
            high=found.interval.high,
            verdict=found.verdict,
            paired=len(found.pairs),
            comparison_json=encode_json(to_strict_json(found.as_dict())),
        )

    async def _load(self) -> AsyncEvaluations:
        """Return the evaluations; they are loaded beside the event loop, since DSPy takes seconds."""
        return (await load_in_thread(lambda: self._fleet.evaluations)).aio


class GatewayOptimizations:
    """The operations on optimizations.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._starts = JobStarts(fleet)

    async def start(self, request: pb.StartOptimizationRequest, call: ClientCall) -> pb.Job:
        """Start an optimizer on a worker."""
        require_all_sessions(call, GrantScope.ADMIN)
        options = _parse_object(request.options_json, "options")
        compile_options = _parse_object(request.compile_options_json, "compile_options")
        limits = ("max_predictions", "max_usd", "max_s")
        given: dict[str, Any] = {name: getattr(request, name) for name in limits if request.HasField(cast("Any", name))}
        budget, jobs = Budget(**given), await load_jobs(self._fleet)

        async def start(job_id: str, author: str) -> Job:
            return await jobs.optimize(
                require_name(request.program, "program"),
                require_name(request.trainset, "trainset"),
                require_name(request.metric, "metric"),
                optimizer=require_name(request.optimizer, "optimizer"),
                options=options,
                compile_options=compile_options,
                valset=request.valset or None,
                session=request.session or DEFAULT_SESSION,
                budget=budget,
                in_flight=request.in_flight or _IN_FLIGHT_OF_OPTIMIZATIONS,
                priority=request.priority,
                lm=request.lm,
                label=request.label if request.HasField("label") else "candidate",
                author=author,
                job_id=job_id,
            )

        return await self._starts.start(request, call, start)


def _parse_options(request: pb.StartEvaluationRequest, author: str) -> EvaluationOptions:
    from snakepit_bridge.client.evaluation_options import DEFAULT_IN_FLIGHT, EvaluationOptions

    return EvaluationOptions(
        in_flight=request.in_flight or DEFAULT_IN_FLIGHT,
        failure_score=request.failure_score,
        repeat=request.repeat,
        author=author,
        keep_s=request.keep_s or KEEP_S,
        keep_content=not request.drop_content,
    )


def _require_id(text: str, where: str, call: ClientCall) -> str:
    require_all_sessions(call, GrantScope.READ)
    return require_name(text, where, MAX_ID_LENGTH)


def _parse_metric(request: pb.StartEvaluationRequest) -> MetricSpec:
    options = _parse_object(request.metric_options_json, "metric_options")
    reference = require_name(request.metric, "metric")
    if unknown := sorted(options.keys() - _METRIC_OPTIONS):
        raise MetricError(reference, f"it has no option {unknown[0][:80]!r}, only {', '.join(sorted(_METRIC_OPTIONS))}")
    for name in sorted(options.keys() & {"arguments", "inputs"}):
        if not isinstance(options[name], dict):
            raise MetricError(reference, f"its {name} are an object")
    for name in sorted(options.keys() - {"arguments", "inputs"}):
        if not isinstance(options[name], str):
            raise MetricError(reference, f"its {name} is text")
    return MetricSpec(reference, **options)


def _parse_object(text: bytes, where: str) -> Mapping[str, Any]:
    try:
        found = parse(text or b"{}")
    except (ValueError, RecursionError) as exc:
        raise MalformedError(where, f"it isn't JSON ({exc})") from exc
    if not isinstance(found, dict):
        raise MalformedError(where, "it must be a JSON object")
    return cast("dict[str, Any]", found)


def _record_message(record: EvaluationRecord) -> pb.Evaluation:
    subject = record.subject
    return pb.Evaluation(
        id=record.id,
        program=subject.program,
        version=subject.version,
        session=subject.session,
        token=subject.token,
        dataset=subject.dataset,
        dataset_version=subject.dataset_version,
        metric=subject.metric,
        score=record.score,
        low=record.interval.low,
        high=record.interval.high,
        count=record.count,
        errors=record.errors,
        usage=usage_message(record.usage),
        ended_at=timestamp_message(record.ended_at),
        author=record.author,
        record_json=encode_json(to_strict_json(record.as_dict())),
    )
