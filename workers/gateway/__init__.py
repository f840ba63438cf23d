"""The gateway: a fleet's variables, predictions and programs for applications in any language, by gRPC and HTTP."""

from workers.gateway.service import Gateway, run_gateway
from workers.gateway.settings import GatewaySettings, Limits, Tls
from workers.gateway.authentication import Grant, Grants, Scope, hashed, new_token, table

__all__ = [
    "Gateway",
    "GatewaySettings",
    "Grant",
    "Grants",
    "Limits",
    "Scope",
    "Tls",
    "hashed",
    "new_token",
    "run_gateway",
    "table",
]
