"""The public names of the package, which ``dspex_fleet`` loads on first use."""

from __future__ import annotations

from config.settings import FleetSettings
from workers.fleet_app import FleetApp
from workers.installation import install

__all__ = ["FleetApp", "FleetSettings", "install"]
