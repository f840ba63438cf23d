"""The Rollouts service: start, watch and steer the rollouts of the sessions that a grant covers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from typing import Any, cast

from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import RolloutPolicyError, SessionNotFoundError
from snakepit_bridge.redis.lease import TurnLostError
from snakepit_bridge.releases.target_names import TargetName
from snakepit_bridge.rollouts.events import MAX_EVENTS, RolloutEvent
from snakepit_bridge.rollouts.policy import RolloutPolicy, parse_policy
from snakepit_bridge.rollouts.records import RolloutRecord
from snakepit_bridge.snapshots.replica import Replica
from snakepit_bridge.variables.codec import encode_json, parse
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api.control import check_control
from workers.gateway.api.converters import parse_position, rollout_event_message, rollout_message
from workers.gateway.api.request_ids import Attempt, RequestIds
from workers.gateway.call import ClientCall
from workers.gateway.errors import MalformedError, NotGrantedError
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
        self._ids = RequestIds(fleet.connection, fleet.namespace)

    async def start(self, request: pb.StartRolloutRequest, call: ClientCall) -> pb.Rollout:
        """Start a rollout."""
        target, policy = _require_target(request.target, call), _parse_policy(request.policy_json)
        if request.WhichOneof("candidate") is None:
            raise MalformedError("candidate", "there is none; give the values of a session or a program's version")
        is_version = request.WhichOneof("candidate") == "version"
        if is_version != (target.kind == "program"):
            raise MalformedError("candidate", f"that of {target} is {'values' if is_version else 'a version'}")
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
        covered = (each for each in staged if _is_covered(TargetName.parse(each.target), call))
        return pb.ListRolloutsResponse(rollouts=[self._message(each.target, each.record) for each in covered])

    async def show(self, request: pb.ShowRolloutRequest, call: ClientCall) -> pb.RolloutReport:
        """Return how a rollout stands."""
        target = str(_require_target(request.target, call))
        report = await self._fleet.rollouts.aio.show(target)
        text = encode_json(to_strict_json(report.as_dict()))
        return pb.RolloutReport(rollout=self._message(target, report.record), report_json=text)

    async def watch(self, request: pb.WatchRolloutRequest, call: ClientCall) -> AsyncGenerator[pb.RolloutEvent]:
        """Yield the events of a target, and then each new one."""
        target, after = str(_require_target(request.target, call)), parse_position(request.after, "event")
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
        target = _require_target(request.target, call)
        for name, text in (("author", call.grant.format_author(request.author)), ("reason", request.reason)):
            if not text.strip():
                raise MalformedError(name, "it is blank, and the rollout's history needs it")

        async def take(author: str) -> RolloutRecord:
            return await step(str(target), author=author, reason=request.reason)

        return await self._take(request, target, call, take)

    async def _take(self, request: _Request, target: TargetName, call: ClientCall, step: _Step) -> pb.Rollout:
        """Take a step, at most once for a request id."""
        author = call.grant.format_author(request.author)
        if not request.request_id:
            return self._message(str(target), await step(author))
        content = request.SerializeToString(deterministic=True)
        while True:
            try:
                async with self._ids.attempt(call.grant.name, request.request_id, content) as attempt:
                    record = await self._take_once(attempt, str(target), author, request.reason, step)
                return self._message(str(target), record)
            except TurnLostError:
                continue  # another attempt has taken over; its answer is this one's too

    async def _take_once(self, attempt: Attempt, target: str, author: str, reason: str, step: _Step) -> RolloutRecord:
        if attempt.answer is not None:
            return RolloutRecord.parse(attempt.answer)
        # An attempt that died has left the last event before its step.
        record = None if attempt.base is None else await self._find_step(target, attempt.base, author, reason)
        if record is None:
            events = await self._events(target)
            await attempt.record_base(events[-1].position if events else "")
            record = await step(author)
        await attempt.record_answer(str(record))
        return record

    async def _find_step(self, target: str, after: str, author: str, reason: str) -> RolloutRecord | None:
        """Return the record of the first event behind a position that has this author and reason."""
        found = (
            each.record for each in await self._events(target, after) if (each.author, each.reason) == (author, reason)
        )
        return next(found, None)

    async def _events(self, target: str, after: str = "") -> list[RolloutEvent]:
        try:
            return await self._fleet.rollouts.aio.events(target, after=after, limit=MAX_EVENTS)
        except SessionNotFoundError:
            return []

    def _message(self, target: str, record: RolloutRecord) -> pb.Rollout:
        return rollout_message(target, record, self._replica.store_time())


def _require_target(text: str, call: ClientCall) -> TargetName:
    """Return the target of a request.

    Raises:
        NotGrantedError: the caller's grant doesn't cover it.
    """
    target = TargetName.parse(text)
    if not _is_covered(target, call):
        raise NotGrantedError(call.grant.name, GrantScope.RELEASE, target.name if target.kind == "session" else "*")
    return target


def _is_covered(target: TargetName, call: ClientCall) -> bool:
    return call.grant.covers(target.name) if target.kind == "session" else call.grant.covers_all


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
