"""Variable-aware DSPy: modules that obey the session variables which an Elixir application publishes.

The names below load on first use, so that an application which only enqueues predictions never pays for DSPy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snakepit_bridge.exceptions import BridgeError, SessionError, ValidationError, VariableNotFoundError
    from snakepit_bridge.session_context import SessionContext

_HOME = {
    "BridgeError": "snakepit_bridge.exceptions",
    "SessionContext": "snakepit_bridge.session_context",
    "SessionError": "snakepit_bridge.exceptions",
    "ValidationError": "snakepit_bridge.exceptions",
    "VariableNotFoundError": "snakepit_bridge.exceptions",
}

__all__ = ["BridgeError", "SessionContext", "SessionError", "ValidationError", "VariableNotFoundError"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
