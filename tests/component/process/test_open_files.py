"""How many files a process may have open, and what waits where none is left."""

from __future__ import annotations

import subprocess
import sys

from tests.harness.waiting import PATIENCE_S


def test_waiting_for_files_under_a_real_limit() -> None:
    """They take all the files that a process may have, so they run in one that has nothing else to do."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/component/lacking_files.py"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "5 passed" in done.stdout
