"""The Protections and Approvals services: what needs somebody else's approval, and what waits for it."""

from __future__ import annotations

from snakepit_bridge.audit.protections import Protection
from snakepit_bridge.audit.requests import ApprovalRequest
from snakepit_bridge.client import Fleet
from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from snakepit_bridge.variables.codec import encode_json
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api.converters import timestamp_message
from workers.gateway.api.targets import require_all_sessions
from workers.gateway.call import MAX_ID_LENGTH, ClientCall, require_name
from workers.gateway.json_text import to_strict_json


class GatewayProtections:
    """The operations on rules of protection.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def list(self, request: pb.ListProtectionsRequest, call: ClientCall) -> pb.ListProtectionsResponse:
        """Return the rules."""
        require_all_sessions(call, GrantScope.READ)
        rules = await self._fleet.protections.aio.list()
        return pb.ListProtectionsResponse(protections=map(_protection_message, rules))

    async def protect(self, request: pb.ProtectRequest, call: ClientCall) -> pb.Protection:
        """Set a rule."""
        require_all_sessions(call, GrantScope.ADMIN)
        rule = await self._fleet.protections.aio.protect(
            request.kind,
            request.pattern,
            approvals=request.approvals or 1,
            author=call.grant.format_author(request.author),
        )
        return _protection_message(rule)

    async def unprotect(self, request: pb.UnprotectRequest, call: ClientCall) -> pb.UnprotectResponse:
        """Remove a rule."""
        require_all_sessions(call, GrantScope.ADMIN)
        author = call.grant.format_author(request.author)
        await self._fleet.protections.aio.unprotect(request.kind, request.pattern, author=author)
        return pb.UnprotectResponse()


class GatewayApprovals:
    """The operations on requests that wait for approval.

    Args:
        fleet: the fleet.
    """

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def list(self, request: pb.ListApprovalsRequest, call: ClientCall) -> pb.ListApprovalsResponse:
        """Return the requests that wait, without their arguments."""
        require_all_sessions(call, GrantScope.READ)
        found = await self._fleet.approvals.aio.list()
        return pb.ListApprovalsResponse(requests=[_request_message(each, brief=True) for each in found])

    async def get(self, request: pb.ApprovalRequestRequest, call: ClientCall) -> pb.ApprovalRequest:
        """Return a request that waits."""
        require_all_sessions(call, GrantScope.READ)
        return _request_message(await self._fleet.approvals.aio.get(_require_id(request.id)))

    async def approve(self, request: pb.ApproveRequest, call: ClientCall) -> pb.Approval:
        """Approve a request, and make the change if no approval is missing then."""
        require_all_sessions(call, GrantScope.APPROVE)
        request_id, author = _require_id(request.id), call.grant.format_author(request.author)
        found = await self._fleet.approvals.aio.approve(request_id, author=author)
        return pb.Approval(request=_request_message(found.request), applied=found.applied, result=found.result)

    async def reject(self, request: pb.RejectRequest, call: ClientCall) -> pb.ApprovalRequest:
        """Reject a request."""
        require_all_sessions(call, GrantScope.APPROVE)
        author = call.grant.format_author(request.author)
        found = await self._fleet.approvals.aio.reject(_require_id(request.id), author=author, reason=request.reason)
        return _request_message(found)


def _require_id(text: str) -> str:
    return require_name(text, "id", MAX_ID_LENGTH)


def _protection_message(rule: Protection) -> pb.Protection:
    return pb.Protection(
        kind=rule.kind,
        pattern=rule.pattern,
        approvals=rule.approvals,
        author=rule.author,
        at=timestamp_message(rule.at),
    )


def _request_message(request: ApprovalRequest, *, brief: bool = False) -> pb.ApprovalRequest:
    return pb.ApprovalRequest(
        id=request.id,
        operation=request.operation,
        target=request.target,
        arguments_json=b"" if brief else encode_json(to_strict_json(dict(request.arguments))),
        expected=request.expected,
        author=request.author,
        reason=request.reason,
        rule=request.rule,
        needed=request.needed,
        approvers=request.approvers,
        source=request.source,
        created_at=timestamp_message(request.created_at),
        expires_at=timestamp_message(request.expires_at),
        digest=request.digest,
    )
