"""The DeadLetters service: what the fleet has given up, which holds the inputs of all sessions."""

from __future__ import annotations

from snakepit_bridge.client import Fleet
from snakepit_bridge.delivery.dead_letters import DeadLetter
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api.converters import timestamp_message
from workers.gateway.api.targets import require_all_sessions
from workers.gateway.call import MAX_ID_LENGTH, ClientCall, require_name

_DEFAULT_LIMIT, _MAX_LIMIT = 100, 1_000


class GatewayDeadLetters:
    """The operations on dead letters.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def list(self, request: pb.ListDeadLettersRequest, call: ClientCall) -> pb.ListDeadLettersResponse:
        """Return the latest, without the messages themselves."""
        require_all_sessions(call, GrantScope.ADMIN)
        letters = self._fleet.dead_letters.aio
        latest = await letters.latest(min(request.limit or _DEFAULT_LIMIT, _MAX_LIMIT))
        return pb.ListDeadLettersResponse(letters=map(_letter_message, latest), count=await letters.count())

    async def get(self, request: pb.DeadLetterRequest, call: ClientCall) -> pb.DeadLetter:
        """Return one with its message."""
        letter = await self._fleet.dead_letters.aio.get(_require_id(request, call))
        message = _letter_message(letter)
        message.message = letter.message.decode(errors="backslashreplace")
        return message

    async def retry(self, request: pb.DeadLetterRequest, call: ClientCall) -> pb.DeadLetter:
        """Put a message back into its queue."""
        return _letter_message(
            await self._fleet.dead_letters.aio.retry(_require_id(request, call), author=call.grant.name)
        )

    async def drop(self, request: pb.DeadLetterRequest, call: ClientCall) -> pb.DropDeadLetterResponse:
        """Delete a message for ever."""
        await self._fleet.dead_letters.aio.drop(_require_id(request, call), author=call.grant.name)
        return pb.DropDeadLetterResponse()


def _require_id(request: pb.DeadLetterRequest, call: ClientCall) -> str:
    require_all_sessions(call, GrantScope.ADMIN)
    return require_name(request.id, "id", MAX_ID_LENGTH)


def _letter_message(letter: DeadLetter) -> pb.DeadLetter:
    return pb.DeadLetter(
        id=letter.id,
        reason=letter.reason,
        error=letter.error,
        queue=letter.queue,
        task=letter.task or "",
        prediction_ids=letter.task_ids,
        deliveries=letter.deliveries,
        at=timestamp_message(letter.at),
    )
