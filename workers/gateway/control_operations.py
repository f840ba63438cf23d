"""The rows of the gateway's table that show and control changes: the audit, rules of protection, and approvals."""

from __future__ import annotations

from snakepit_bridge.elixir.generated.dspex.fleet.v1 import fleet_pb2 as pb
from workers.gateway.access.authentication import GrantScope
from workers.gateway.api.approvals import GatewayApprovals, GatewayProtections
from workers.gateway.api.audit import GatewayAudit
from workers.gateway.operation import Operation, ServiceOperations


def build_control_operations(
    audit: GatewayAudit, protections: GatewayProtections, approvals: GatewayApprovals
) -> tuple[Operation, ...]:
    """Return the operations of these three services."""
    audit_operation = ServiceOperations("Audit", "/v1/audit")
    return (
        audit_operation("List", GrantScope.AUDIT, pb.ListAuditRequest, pb.ListAuditResponse, "GET", unary=audit.list),
        *_protection_operations(protections),
        *_approval_operations(approvals),
    )


def _protection_operations(service: GatewayProtections) -> tuple[Operation, ...]:
    operation = ServiceOperations("Protections", "/v1/protections")
    read, admin = GrantScope.READ, GrantScope.ADMIN
    return (
        operation("List", read, pb.ListProtectionsRequest, pb.ListProtectionsResponse, "GET", unary=service.list),
        operation("Protect", admin, pb.ProtectRequest, pb.Protection, "POST", unary=service.protect),
        operation(
            "Unprotect", admin, pb.UnprotectRequest, pb.UnprotectResponse, "POST", "/remove", unary=service.unprotect
        ),
    )


def _approval_operations(service: GatewayApprovals) -> tuple[Operation, ...]:
    operation = ServiceOperations("Approvals", "/v1/approvals")
    read, approve = GrantScope.READ, GrantScope.APPROVE
    return (
        operation("List", read, pb.ListApprovalsRequest, pb.ListApprovalsResponse, "GET", unary=service.list),
        operation("Get", read, pb.ApprovalRequestRequest, pb.ApprovalRequest, "GET", "/{id}", unary=service.get),
        operation("Approve", approve, pb.ApproveRequest, pb.Approval, "POST", "/{id}/approve", unary=service.approve),
        operation(
            "Reject", approve, pb.RejectRequest, pb.ApprovalRequest, "POST", "/{id}/reject", unary=service.reject
        ),
    )
