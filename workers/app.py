"""The fleet's Celery app: ``celery -A workers.app worker`` runs it. Importing it connects to nothing."""

from __future__ import annotations

from workers.fleet_app import FleetApp

__all__ = ["FleetApp", "app"]

app = FleetApp()
