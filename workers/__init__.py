"""The composition root: the Celery app, its processes' lifecycle, and the fleet's own commands."""

from __future__ import annotations

PACKAGE = __name__
"""The package's name: ``workers`` in a checkout, ``dspex_fleet.workers`` where the wheel is installed."""
