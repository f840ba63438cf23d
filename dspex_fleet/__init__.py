"""The fleet as a part of a Celery application.

``celery -A dspex_fleet worker`` runs the fleet's own app, ``FleetApp`` creates another one, and ``install`` puts the
fleet on an app that exists. Clients need nothing of it: they use ``snakepit_bridge.client``.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from config.settings import FleetSettings
    from workers.fleet_app import FleetApp
    from workers.installation import install

__all__ = ["FleetApp", "FleetSettings", "install"]

_MODULE = "dspex_fleet.public"


def __getattr__(name: str) -> Any:
    """Load a name on first use: the command line shows its help without Celery."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_MODULE), name)
