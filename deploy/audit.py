"""Looks the packages of a lock up in the advisories that pip-audit knows, where those can be had.

    python deploy/audit.py deploy/requirements.lock

It fails for a known vulnerability. Where the advisories can't be reached, it says so and succeeds: a check mustn't need
a network.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_COMMAND = ("pip_audit", "--disable-pip", "--require-hashes", "--progress-spinner=off", "--timeout=5", "--format=json")


def read_audit(lock: Path, executable: Sequence[str] = (sys.executable, "-m", *_COMMAND)) -> tuple[list[Any], str]:
    """Return what pip-audit found about each package, and what it said if it found nothing out.

    Args:
        lock: the lock.
        executable: pip-audit with its options.
    """
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "audit.json"
        command = [*executable, "--output", str(out), "--requirement", str(lock)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        found = json.loads(out.read_text(encoding="utf-8")) if out.exists() and out.stat().st_size else {}
    said = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
    return found.get("dependencies", []), "" if found else said


def describe(lock: str, packages: Sequence[Any], problem: str) -> tuple[str, bool]:
    """Return what to say of an audit, and whether it found nothing bad."""
    skipped = [each["name"] for each in packages if "skip_reason" in each]
    vulnerable = [each for each in packages if each.get("vulns")]
    if vulnerable:
        lines = [f"{each['name']} {each['version']}: {_list_advisories(each['vulns'])}" for each in vulnerable]
        return f"{lock} has known vulnerabilities:\n  " + "\n  ".join(lines), False
    if problem or len(skipped) == len(packages):
        reason = problem or "they know none of its packages"
        return f"{lock} is not audited, since the advisories can't be had here: {reason}", True
    unknown = f", apart from {', '.join(skipped)}, which they don't know" if skipped else ""
    return f"{lock}: no known vulnerability in {len(packages) - len(skipped)} packages{unknown}", True


def _list_advisories(found: Sequence[Any]) -> str:
    return ", ".join(f"{each['id']} (fixed in {', '.join(each['fix_versions']) or 'no version yet'})" for each in found)


def main(lock: str) -> None:
    """Audit a lock.

    Raises:
        SystemExit: with 1 if a package has a known vulnerability.
    """
    text, is_good = describe(lock, *read_audit(Path(lock)))
    sys.stdout.write(f"{text}\n")
    raise SystemExit(0 if is_good else 1)


if __name__ == "__main__":
    main(*sys.argv[1:])
