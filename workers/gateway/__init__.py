"""The gateway: a fleet's variables, predictions and programs over gRPC and HTTP, for applications in any language."""

from workers.gateway.access.authentication import Grant, Grants, GrantScope, hash_token, new_token, to_toml
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
    "hash_token",
    "new_token",
    "run_gateway",
    "to_toml",
]
