"""What the watchdog's process loads before anything stalls."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"asyncio", "celery", "dspy", "kombu", "litellm", "opentelemetry", "pydantic", "redis", "ssl"}


def test_it_loads_neither_dspy_nor_celery_nor_a_client_of_redis() -> None:
    code = "import sys\nimport workers.watchdog.__main__\nprint(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "workers.watchdog.monitor" in loaded
    assert loaded & HEAVY == set()
