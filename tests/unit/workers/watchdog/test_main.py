"""What the watchdog's process loads."""

from __future__ import annotations

import subprocess
import sys

# What a worker has loaded and a watchdog has no need for, and what it loads in the background.
NEVER = {"celery.app", "dspy", "litellm", "numpy", "opentelemetry.sdk", "pydantic", "tasks"}
LATER = {"asyncio", "kombu", "redis", "ssl"}

CODE = """
import sys
from workers.watchdog import __main__ as watchdog
print(*sys.modules)
watchdog._load_servers()
print(*sys.modules)
"""


def test_it_loads_a_client_of_redis_in_the_background_and_never_dspy_or_celery() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    at_once, later = (set(line.split()) for line in done.stdout.splitlines())
    assert "workers.watchdog.monitor" in at_once
    assert at_once & (NEVER | LATER) == set()
    assert later & (NEVER | LATER) == LATER
