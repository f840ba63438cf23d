"""The fleet's app with a task that kills the process that runs it."""

from __future__ import annotations

import os
import signal

from celery.signals import worker_init

from workers import lifecycle
from workers.app import app

__all__ = ["app"]

# The tasks know no DSPy, which takes seconds to load.
worker_init.disconnect(lifecycle._before_fork)
app.conf.imports = ()


@app.task(name="poison.kill")
def kill() -> None:
    """Takes its process along."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="poison.add")
def add(left: int, right: int) -> int:
    """Returns the sum."""
    return left + right
