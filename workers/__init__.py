"""The composition root: the Celery app, the life of its processes, and the fleet's own commands."""
