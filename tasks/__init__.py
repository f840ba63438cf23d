"""The fleet's Celery tasks: thin functions around the coroutine that makes one prediction."""

from __future__ import annotations

from typing import Any

TASK_MODULES = tuple(
    f"{__name__}.{module}" for module in ("predict", "predict_batch", "metrics", "language_models", "jobs")
)
"""The modules that define Celery tasks. The tasks' names are the same in a checkout and in the wheel."""

DELIVERY: dict[str, Any] = {"acks_late": True, "reject_on_worker_lost": True, "track_started": False}
"""Options of the fleet's tasks, whatever the app's configuration says: a task is acknowledged once it is done."""
