"""What an application imports: :class:`Fleet` to enqueue predictions, :class:`Handle` to wait for one.

Importing it loads neither DSPy nor gRPC; DSPy comes in with the first prediction that is handed back. The names below
load on first use, since workers need parts of this package alone.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from snakepit_bridge.client.fleet import Fleet
    from snakepit_bridge.client.handle import Handle

_HOME = {"Fleet": "snakepit_bridge.client.fleet", "Handle": "snakepit_bridge.client.handle"}

__all__ = ["Fleet", "Handle"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
