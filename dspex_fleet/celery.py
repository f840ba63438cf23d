"""The app that Celery finds by ``-A dspex_fleet``."""

from __future__ import annotations

from workers.app import app

__all__ = ["app"]
