"""The gateway: a fleet's variables, predictions and programs for applications in any language, by gRPC and HTTP."""

from workers.gateway.access.authentication import Grant, Grants, GrantScope, hashed, new_token, table
from workers.gateway.service import Gateway, run_gateway
from workers.gateway.settings import GatewayLimits, GatewaySettings, Tls

__all__ = [
    "Gateway",
    "GatewaySettings",
    "Grant",
    "Grants",
    "GatewayLimits",
    "GrantScope",
    "Tls",
    "hashed",
    "new_token",
    "run_gateway",
    "table",
]
