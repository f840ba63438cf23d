"""The composition root: the Celery app, its processes' lifecycle, and the fleet's own commands."""
