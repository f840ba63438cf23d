"""What the watchdog's process loads."""

from __future__ import annotations

import subprocess
import sys

import pytest

# What a worker has loaded and a watchdog has no need for, and what it loads in the background.
NEVER = {"celery.app", "dspy", "litellm", "numpy", "opentelemetry.sdk", "pydantic", "tasks"}
LATER = {"asyncio", "kombu", "redis", "ssl"}

CODE = """
import sys
from workers.watchdog import __main__ as watchdog
loading = watchdog.Loading(after_s=3_600)
print(*sys.modules)
if "now" in sys.argv:
    loading.finish()
else:
    watchdog.Loading(after_s=0)._thread.join()
print(*sys.modules)
"""


@pytest.mark.parametrize("when", ["later", "now"])
def test_it_loads_a_client_of_redis_after_a_while_or_once_it_is_needed_and_never_dspy_or_celery(when: str) -> None:
    done = subprocess.run([sys.executable, "-c", CODE, when], capture_output=True, text=True, check=True)
    at_once, later = (set(line.split()) for line in done.stdout.splitlines())
    assert "workers.watchdog.monitor" in at_once
    assert at_once & (NEVER | LATER) == set()
    assert later & (NEVER | LATER) == LATER
