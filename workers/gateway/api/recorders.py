"""The Recorders service: which finished predictions are kept. Recorders are variables of the fleet's own session."""

from __future__ import annotations

from typing import Any, cast

from snakepit_bridge.client import Fleet
from snakepit_bridge.client.recorders import RecorderReport
from snakepit_bridge.datasets.recorders import RECORDERS_SESSION, Recorder
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api.converters import timestamp_message
from workers.gateway.call import ClientCall, require_name
from workers.gateway.errors import NotGrantedError
from workers.gateway.loading import load_in_thread


class GatewayRecorders:
    """The operations on recorders.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def list(self, request: pb.ListRecordersRequest, call: ClientCall) -> pb.ListRecordersResponse:
        """Return the recorders, and how many predictions are recorded."""
        _require_recorders(call, GrantScope.READ)
        return pb.ListRecordersResponse(recorders=map(_report_message, await self._fleet.recorders.aio.list()))

    async def set(self, request: pb.SetRecorderRequest, call: ClientCall) -> pb.Recorder:
        """Set a program's recorder."""
        _require_recorders(call, GrantScope.CONTROL)
        await load_in_thread(lambda: self._fleet.registry)  # loads DSPy, which takes seconds
        names = ("share", "max_records", "expires_s", "errors")
        given: dict[str, Any] = {name: getattr(request, name) for name in names if request.HasField(cast("Any", name))}
        recorder = await self._fleet.recorders.aio.set(
            require_name(request.program, "program"),
            keep=list(request.keep),
            drop=list(request.drop),
            replace=list(request.replace),
            author=call.grant.format_author(request.author),
            **given,
        )
        return _recorder_message(recorder)

    async def remove(self, request: pb.RemoveRecorderRequest, call: ClientCall) -> pb.RemoveRecorderResponse:
        """Remove a program's recorder, and what it has recorded if that is wanted."""
        _require_recorders(call, GrantScope.CONTROL)
        author = call.grant.format_author(request.author)
        await self._fleet.recorders.aio.remove(request.program, erase=request.erase, author=author)
        return pb.RemoveRecorderResponse()


def _require_recorders(call: ClientCall, scope: GrantScope) -> None:
    """Check that a grant covers the session of the recorders.

    Raises:
        NotGrantedError: it doesn't.
    """
    if not call.grant.covers(RECORDERS_SESSION):
        raise NotGrantedError(call.grant.name, scope, RECORDERS_SESSION)


def _recorder_message(recorder: Recorder) -> pb.Recorder:
    return pb.Recorder(**recorder.as_dict())


def _report_message(report: RecorderReport) -> pb.RecorderReport:
    count = report.count
    return pb.RecorderReport(
        recorder=_recorder_message(report.recorder),
        records=count.records,
        oldest=timestamp_message(count.oldest) if count.records else None,
    )
