"""The Rollouts service: start, watch and steer the rollouts of the sessions that a grant covers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, cast

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import RolloutCandidateError, RolloutPolicyError
from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.rollouts.events import MAX_EVENTS
from snakepit_bridge.rollouts.looks import check_limit
from snakepit_bridge.rollouts.policy import RolloutPolicy, parse_policy
from snakepit_bridge.rollouts.records import RolloutRecord
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.variables.codec import encode_json, parse
from workers.gateway.api.control import check_control
from workers.gateway.api.converters import parse_position, rollout_event_message, rollout_message
from workers.gateway.api.idempotent_steps import IdempotentSteps, Step
from workers.gateway.api.targets import is_covered, require_target
from workers.gateway.call import ClientCall
from workers.gateway.errors import MalformedError
from workers.gateway.json_text import to_strict_json

_Step = Callable[[str], Awaitable[RolloutRecord]]
_Request = pb.StartRolloutRequest | pb.StepRolloutRequest


class GatewayRollouts:
    """The operations on rollouts.

    Args:
        fleet: the fleet.
        replica: the gateway's snapshots, which know the store's time.
    """

    def __init__(self, fleet: Fleet, replica: Replica) -> None:
        self._fleet = fleet
        self._replica = replica
        self._steps = IdempotentSteps(fleet)

    async def start(self, request: pb.StartRolloutRequest, call: ClientCall) -> pb.Rollout:
        """Start a rollout."""
        target = await require_target(self._fleet, request.target, call)
        policy = _parse_policy(request.policy_json)
        if request.WhichOneof("candidate") is None:
            raise MalformedError("candidate", "there is none; give the values of a session or a program's version")
        is_version = request.WhichOneof("candidate") == "version"
        if is_version != (target.kind == "program"):
            kinds = ("a version", "values") if is_version else ("values", "a version")
            raise RolloutCandidateError(str(target), kinds[0].capitalize(), f"its candidate is {kinds[1]}")
        candidate = request.version if is_version else _parse_values(request.values_json)
        if isinstance(candidate, Mapping):
            check_control(target.name, candidate, call.grant)

        async def start(author: str) -> RolloutRecord:
            return await self._fleet.rollouts.aio.start(
                str(target), candidate, policy=policy, author=author, reason=request.reason
            )

        return await self._take(request, target, call, start)

    async def list(self, request: pb.ListRolloutsRequest, call: ClientCall) -> pb.ListRolloutsResponse:
        """Return what is staged now, of what the grant covers."""
        staged = await self._fleet.rollouts.aio.list()
        covered = (each for each in staged if is_covered(TargetName.parse(each.target), call))
        return pb.ListRolloutsResponse(rollouts=[self._message(each.target, each.record) for each in covered])

    async def show(self, request: pb.ShowRolloutRequest, call: ClientCall) -> pb.RolloutReport:
        """Return how a rollout stands."""
        target = str(await require_target(self._fleet, request.target, call))
        try:
            check_limit(request.looks)
        except ValueError as exc:
            raise MalformedError("looks", str(exc)) from exc
        report = await self._fleet.rollouts.aio.show(target, looks=request.looks)
        text = encode_json(to_strict_json(report.as_dict()))
        return pb.RolloutReport(rollout=self._message(target, report.record), report_json=text)

    async def watch(self, request: pb.WatchRolloutRequest, call: ClientCall) -> AsyncGenerator[pb.RolloutEvent]:
        """Yield the events of a target, and then each new one."""
        target = str(await require_target(self._fleet, request.target, call))
        after = parse_position(request.after, "event")
        async with aclosing(self._fleet.rollouts.aio.watch(target, after=after)) as events:
            async for event in events:
                yield rollout_event_message(target, event)

    async def advance(self, request: pb.StepRolloutRequest, call: ClientCall) -> pb.Rollout:
        """Begin the next stage, or promote the candidate."""
        return await self._step(request, call, self._fleet.rollouts.aio.advance)

    async def pause(self, request: pb.StepRolloutRequest, call: ClientCall) -> pb.Rollout:
        """Pause a rollout."""
        return await self._step(request, call, self._fleet.rollouts.aio.pause)

    async def resume(self, request: pb.StepRolloutRequest, call: ClientCall) -> pb.Rollout:
        """Resume a rollout."""
        return await self._step(request, call, self._fleet.rollouts.aio.resume)

    async def abort(self, request: pb.StepRolloutRequest, call: ClientCall) -> pb.Rollout:
        """Roll a rollout back."""
        return await self._step(request, call, self._fleet.rollouts.aio.abort)

    async def _step(
        self, request: pb.StepRolloutRequest, call: ClientCall, step: Callable[..., Awaitable[RolloutRecord]]
    ) -> pb.Rollout:
        target = await require_target(self._fleet, request.target, call)
        for name, text in (("author", call.grant.format_author(request.author)), ("reason", request.reason)):
            if not text.strip():
                raise MalformedError(name, "it is blank, and the rollout's history needs it")

        async def take(author: str) -> RolloutRecord:
            return await step(str(target), author=author, reason=request.reason)

        return await self._take(request, target, call, take)

    async def _take(self, request: _Request, target: TargetName, call: ClientCall, take: _Step) -> pb.Rollout:
        step = Step(
            take,
            lambda after: self._fleet.rollouts.aio.events(str(target), after=after, limit=MAX_EVENTS),
            lambda event: event.record,
            str,
            RolloutRecord.parse,
        )
        return self._message(str(target), await self._steps.take(request, call, step))

    def _message(self, target: str, record: RolloutRecord) -> pb.Rollout:
        return rollout_message(target, record, self._replica.store_time())


def _parse_policy(text: bytes) -> RolloutPolicy | None:
    if not text:
        return None
    try:
        return parse_policy(cast("Mapping[str, Any]", parse(text)))
    except RolloutPolicyError:
        raise
    except (ValueError, TypeError) as exc:
        raise MalformedError("policy", f"it must be a JSON object: {exc}") from exc


def _parse_values(text: bytes) -> Mapping[str, Any]:
    try:
        values = parse(text)
    except ValueError as exc:
        raise MalformedError("values", f"they aren't JSON: {exc}") from exc
    if not isinstance(values, dict):
        raise MalformedError("values", "they must be a JSON object of variable to value")
    return cast("dict[str, Any]", values)
