"""``make dist``: what a release consists of, built the same each time."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.harness.installed_wheel import ROOT, build

VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
COMMITTED_AT = "1700000000"

pytestmark = pytest.mark.timeout(600)


def test_a_release_is_the_same_each_time_and_lists_what_it_contains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", COMMITTED_AT)
    dist = tmp_path / "dist"
    ready = f"--old-file={sys.prefix}/.ready"  # the environment is this one
    command = ["make", ready, "dist", f"VENV={sys.prefix}", f"DIST={dist}"]
    done = subprocess.run(command, cwd=ROOT, env=dict(os.environ), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    name = f"dspex_fleet-{VERSION}"
    wheel, sdist = dist / f"{name}-py3-none-any.whl", dist / f"{name}.tar.gz"
    bills = [dist / f"dspex-fleet-{VERSION}.{what}.cdx.json" for what in ("image", "wheel")]
    sums = {(line.split()[1], line.split()[0]) for line in (dist / "SHA256SUMS").read_text().splitlines()}
    assert sums == {(each.name, hashlib.sha256(each.read_bytes()).hexdigest()) for each in (wheel, sdist, *bills)}
    # tests/project/test_wheel.py shows it of the wheel.
    (again,) = build(tmp_path / "again", "--sdist")
    assert again.read_bytes() == sdist.read_bytes()
    for bill in bills:
        content = json.loads(bill.read_text(encoding="utf-8"))
        assert content["metadata"]["component"]["version"] == VERSION
        assert len(content["components"]) > 50
        assert all("version" in each and "purl" in each for each in content["components"])
