"""The Experiments service: start, show and end the experiments on what a grant covers."""

from __future__ import annotations

from typing import Any

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.rollouts.events import MAX_EVENTS
from snakepit_bridge.rollouts.experiment_changes import ExperimentEvent, ExperimentEventKind
from snakepit_bridge.rollouts.experiments import Experiment
from snakepit_bridge.variables.codec import encode_canonical, encode_json, parse
from workers.gateway.api.control import check_control, is_control
from workers.gateway.api.converters import experiment_message, parse_position, timestamp_message
from workers.gateway.api.idempotent_steps import IdempotentSteps, Step, StepRequest
from workers.gateway.api.targets import is_covered, require_target
from workers.gateway.call import ClientCall
from workers.gateway.errors import MalformedError
from workers.gateway.json_text import to_strict_json

_DEFAULT_EVENTS, _MAX_EVENTS = 100, 1_000


class GatewayExperiments:
    """The operations on experiments.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._steps = IdempotentSteps(fleet)

    async def start(self, request: pb.StartExperimentRequest, call: ClientCall) -> pb.Experiment:
        """Start an experiment."""
        target = await require_target(self._fleet, request.target, call)
        plan = _parse_plan(request)
        check_control(target.name, (), call.grant)

        async def start(author: str) -> Experiment:
            return await self._fleet.experiments.aio.start(str(target), plan, author=author, reason=request.reason)

        return await self._take(request, target, call, "started", request.name, start)

    async def list(self, request: pb.ListExperimentsRequest, call: ClientCall) -> pb.ListExperimentsResponse:
        """Return the experiments that run on a target, or on all that the grant covers."""
        if not request.target:
            found = await self._fleet.experiments.aio.list_all()
            covered = (each for each in found if is_covered(TargetName.parse(each.target), call))
            messages = [experiment_message(each.target, each.experiment) for each in covered]
            return pb.ListExperimentsResponse(experiments=messages)
        target = str(await require_target(self._fleet, request.target, call))
        running = await self._fleet.experiments.aio.list(target)
        return pb.ListExperimentsResponse(experiments=[experiment_message(target, each) for each in running])

    async def show(self, request: pb.ShowExperimentRequest, call: ClientCall) -> pb.ExperimentReport:
        """Return how an experiment stands, or how it ended."""
        target = str(await require_target(self._fleet, request.target, call))
        report = await self._fleet.experiments.aio.show(target, request.experiment)
        return pb.ExperimentReport(
            experiment=experiment_message(target, report.experiment),
            report_json=encode_json(to_strict_json(report.as_dict())),
        )

    async def events(self, request: pb.ExperimentEventsRequest, call: ClientCall) -> pb.ExperimentEventsResponse:
        """Return what has happened to a target's experiments."""
        target = str(await require_target(self._fleet, request.target, call))
        after = parse_position(request.after, "event")
        limit = min(request.limit or _DEFAULT_EVENTS, _MAX_EVENTS)
        found = await self._fleet.experiments.aio.events(target, after=after, limit=limit)
        return pb.ExperimentEventsResponse(events=[_event_message(target, event) for event in found])

    async def decide(self, request: pb.DecideExperimentRequest, call: ClientCall) -> pb.Experiment:
        """End an experiment, and give everybody the revision of one of its arms."""
        target = await require_target(self._fleet, request.target, call)
        await self._check_decision(target, request, call)

        async def decide(author: str) -> Experiment:
            return await self._fleet.experiments.aio.decide(
                str(target), request.experiment, request.arm, author=author, reason=request.reason
            )

        return await self._take(request, target, call, "decided", request.experiment, decide)

    async def stop(self, request: pb.StopExperimentRequest, call: ClientCall) -> pb.Experiment:
        """End an experiment without a decision."""
        target = await require_target(self._fleet, request.target, call)
        check_control(target.name, (), call.grant)

        async def stop(author: str) -> Experiment:
            return await self._fleet.experiments.aio.stop(
                str(target), request.experiment, author=author, reason=request.reason
            )

        return await self._take(request, target, call, "stopped", request.experiment, stop)

    async def _check_decision(self, target: TargetName, request: pb.DecideExperimentRequest, call: ClientCall) -> None:
        """Check that a decision changes nothing that steers the fleet, unless the caller's grant may do that.

        Raises:
            NotGrantedError: it does, and the grant may not.
        """
        check_control(target.name, (), call.grant)
        if target.kind != "session":
            return
        running = await self._fleet.experiments.aio.list(str(target))
        experiment = next((each for each in running if each.name == request.experiment), None)
        if experiment is not None:
            differences = await self._fleet.store.diff(target.name, experiment.arm(request.arm).revision)
            check_control(target.name, filter(is_control, differences), call.grant)

    async def _take(
        self,
        request: StepRequest,
        target: TargetName,
        call: ClientCall,
        kind: ExperimentEventKind,
        name: str,
        take: Any,
    ) -> pb.Experiment:
        def find_answer(event: ExperimentEvent) -> Experiment | None:
            return event.experiment if (event.kind, event.experiment.name) == (kind, name) else None

        step: Step[ExperimentEvent, Experiment] = Step(
            take,
            lambda after: self._fleet.experiments.aio.events(str(target), after=after, limit=MAX_EVENTS),
            find_answer,
            _encode,
            _decode,
        )
        return experiment_message(str(target), await self._steps.take(request, call, step))


def _encode(experiment: Experiment) -> str:
    return encode_canonical(experiment.encode()).decode()


def _decode(text: str) -> Experiment:
    return Experiment.model_validate(parse(text))


def _parse_plan(request: pb.StartExperimentRequest) -> dict[str, Any]:
    """Return the plan of a request, whose parts are checked where it starts."""
    try:
        segment = parse(request.segment_json) if request.segment_json else None
    except (ValueError, RecursionError) as exc:
        raise MalformedError("segment", f"it isn't JSON: {exc}") from exc
    return {
        "name": request.name,
        "from_share": request.from_share,
        "to_share": request.to_share if request.HasField("to_share") else 1,
        "arms": [{"name": arm.name, "weight": arm.weight, "revision": arm.revision} for arm in request.arms],
        "segment": segment,
    }


def _event_message(target: str, event: ExperimentEvent) -> pb.ExperimentEvent:
    return pb.ExperimentEvent(
        kind=getattr(pb, f"EXPERIMENT_EVENT_KIND_{event.kind.upper()}"),
        experiment=experiment_message(target, event.experiment),
        author=event.author,
        reason=event.reason,
        at=timestamp_message(event.at),
        position=event.position,
    )
