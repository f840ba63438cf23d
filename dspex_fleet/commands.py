"""The commands of ``dspex-fleet`` that run the fleet, by a name that a checkout and the wheel share."""

from __future__ import annotations

from workers.commands import check_language_models, demo, gateway, gateway_token, refresher, worker
from workers.console_command import console

__all__ = ["check_language_models", "console", "demo", "gateway", "gateway_token", "refresher", "worker"]
