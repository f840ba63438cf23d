"""The rows of the gateway's table that show and control changes: the audit, rules of protection, and approvals."""

from __future__ import annotations

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api.approvals import GatewayApprovals, GatewayProtections
from workers.gateway.api.audit import GatewayAudit
from workers.gateway.operation import Operation


def build_control_operations(
    audit: GatewayAudit, protections: GatewayProtections, approvals: GatewayApprovals
) -> tuple[Operation, ...]:
    """Return the operations of these three services."""
    read, admin, approve, at = GrantScope.READ, GrantScope.ADMIN, GrantScope.APPROVE, "/v1/approvals/{id}"
    return (
        Operation(
            "Audit", "List", GrantScope.AUDIT, pb.ListAuditRequest, pb.ListAuditResponse, ("GET", "/v1/audit"),
            unary=audit.list,
        ),
        Operation(
            "Protections", "List", read, pb.ListProtectionsRequest, pb.ListProtectionsResponse,
            ("GET", "/v1/protections"), unary=protections.list,
        ),
        Operation(
            "Protections", "Protect", admin, pb.ProtectRequest, pb.Protection, ("POST", "/v1/protections"),
            unary=protections.protect,
        ),
        Operation(
            "Protections", "Unprotect", admin, pb.UnprotectRequest, pb.UnprotectResponse,
            ("POST", "/v1/protections/remove"), unary=protections.unprotect,
        ),
        Operation(
            "Approvals", "List", read, pb.ListApprovalsRequest, pb.ListApprovalsResponse, ("GET", "/v1/approvals"),
            unary=approvals.list,
        ),
        Operation(
            "Approvals", "Get", read, pb.ApprovalRequestRequest, pb.ApprovalRequest, ("GET", at), unary=approvals.get
        ),
        Operation(
            "Approvals", "Approve", approve, pb.ApproveRequest, pb.Approval, ("POST", f"{at}/approve"),
            unary=approvals.approve,
        ),
        Operation(
            "Approvals", "Reject", approve, pb.RejectRequest, pb.ApprovalRequest, ("POST", f"{at}/reject"),
            unary=approvals.reject,
        ),
    )  # fmt: skip
