"""The Judges service: which programs score whose predictions. Judges are variables of a session of the fleet's own."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.judges import JudgeReport
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.exceptions import JudgeError
from snakepit_bridge.releases.judges import JUDGES_SESSION, Judge
from snakepit_bridge.variables.codec import encode_canonical, parse
from workers.gateway.access.authentication import GrantScope
from workers.gateway.call import ClientCall
from workers.gateway.errors import NotGrantedError
from workers.gateway.loading import load_in_thread


class GatewayJudges:
    """The operations on judges.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def list(self, request: pb.ListJudgesRequest, call: ClientCall) -> pb.ListJudgesResponse:
        """Return the judges, and why others can't judge."""
        _require_judges(call, GrantScope.READ)
        found = await self._fleet.judges.aio.list()
        return pb.ListJudgesResponse(
            judges=map(_report_message, found.judges),
            invalid=[pb.InvalidJudge(judge=error.judge, problem=error.problem) for error in found.invalid],
        )

    async def add(self, request: pb.AddJudgeRequest, call: ClientCall) -> pb.Judge:
        """Add a judge, in place of the one of the same program and name."""
        _require_judges(call, GrantScope.CONTROL)
        await load_in_thread(lambda: self._fleet.registry)  # loads DSPy, which takes seconds
        judge = await self._fleet.judges.aio.add(
            request.judged,
            name=request.name,
            program=request.program,
            inputs=_parse_inputs(request),
            output=request.output or "score",
            comment=request.comment,
            author=call.grant.format_author(request.author),
            **_parse_limits(request),
        )
        return _judge_message(judge)

    async def remove(self, request: pb.RemoveJudgeRequest, call: ClientCall) -> pb.RemoveJudgeResponse:
        """Remove a judge."""
        _require_judges(call, GrantScope.CONTROL)
        author = call.grant.format_author(request.author)
        await self._fleet.judges.aio.remove(request.judged, request.name, author=author)
        return pb.RemoveJudgeResponse()


def _require_judges(call: ClientCall, scope: GrantScope) -> None:
    """Check that a grant covers the session of the judges.

    Raises:
        NotGrantedError: it doesn't.
    """
    if not call.grant.covers(JUDGES_SESSION):
        raise NotGrantedError(call.grant.name, scope, JUDGES_SESSION)


def _parse_limits(request: pb.AddJudgeRequest) -> dict[str, Any]:
    """Return the limits that a request names; the others are as ``fleet.judges.add`` has them."""
    names = ("share", "usd_per_hour", "concurrency")
    return {name: getattr(request, name) for name in names if request.HasField(cast("Any", name))}


def _parse_inputs(request: pb.AddJudgeRequest) -> Mapping[str, str]:
    judge = f"{request.judged}.{request.name}"
    try:
        inputs = parse(request.inputs_json or b"{}")
    except (ValueError, RecursionError) as exc:
        raise JudgeError(judge, f"its inputs aren't JSON ({exc})") from exc
    if not isinstance(inputs, dict) or not all(isinstance(path, str) for path in cast("Any", inputs).values()):
        raise JudgeError(judge, "inputs map each field to text such as 'outputs.answer'")
    return cast("dict[str, str]", inputs)


def _judge_message(judge: Judge) -> pb.Judge:
    return pb.Judge(
        judged=judge.judged,
        name=judge.name,
        program=judge.program,
        inputs_json=encode_canonical(dict(judge.inputs)),
        output=judge.output,
        comment=judge.comment,
        share=judge.share,
        usd_per_hour=judge.usd_per_hour,
        concurrency=judge.concurrency,
    )


def _report_message(report: JudgeReport) -> pb.JudgeReport:
    hour = report.hour
    return pb.JudgeReport(
        judge=_judge_message(report.judge),
        judged=hour.judged,
        failed=hour.failed,
        cost_usd=f"{hour.cost_usd:f}",
        unaffordable=hour.unaffordable,
        unattended=hour.unattended,
        open=hour.open,
        problem=hour.problem,
    )
