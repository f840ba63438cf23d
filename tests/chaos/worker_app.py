"""The fleet's app with tasks that take a while, or take the process that runs them along."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

from celery.signals import worker_init

from workers import lifecycle
from workers.app import app

__all__ = ["app"]

# The tasks know no DSPy, which takes seconds to load.
worker_init.disconnect(lifecycle._before_fork)
app.conf.imports = ()


@app.task(name="poison.kill")
def kill() -> None:
    """Take its process along."""
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(name="poison.add")
def add(left: int, right: int) -> int:
    """Return the sum."""
    return left + right


@app.task(name="poison.slow")
def slow(log: str, seconds: float) -> str:
    """Note that it has begun, and take its time."""
    _begun(log)
    time.sleep(seconds)
    return "done"


@app.task(name="poison.slow_async")
async def slow_async(log: str, seconds: float) -> str:
    """The same as a coroutine."""
    _begun(log)
    await asyncio.sleep(seconds)
    return "done"


def _begun(log: str) -> None:
    with Path(log).open("a", encoding="utf-8") as file:
        file.write("begun\n")
