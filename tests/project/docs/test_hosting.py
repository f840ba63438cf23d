"""The files of .github are valid, and hosted CI runs the Makefile on every system, Python and server."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.harness.waiting import PATIENCE_S

ROOT = Path(__file__).parents[3]
SCHEMAS = {
    "workflows/ci.yml": "vendor.github-workflows",
    "dependabot.yml": "vendor.dependabot",
    "ISSUE_TEMPLATE/bug.yml": "vendor.github-issue-forms",
    "ISSUE_TEMPLATE/feature.yml": "vendor.github-issue-forms",
    "ISSUE_TEMPLATE/config.yml": "vendor.github-issue-config",
}


@pytest.mark.parametrize("file", SCHEMAS)
def test_a_file_is_what_the_host_expects(file: str) -> None:
    path = ROOT / ".github" / file
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", SCHEMAS[file], str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_file_of_the_host_is_tested() -> None:
    files = {str(path.relative_to(ROOT / ".github")) for path in (ROOT / ".github").rglob("*.yml")}
    assert files == set(SCHEMAS)


@pytest.fixture(scope="module")
def jobs() -> dict[str, Any]:
    workflow: Any = YAML(typ="safe").load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    return workflow["jobs"]


def test_ci_covers_every_python_system_and_server(jobs: dict[str, Any]) -> None:
    matrix = jobs["test"]["strategy"]["matrix"]
    assert matrix["python"] == ["3.11", "3.12", "3.13", "3.14"]
    assert {system.partition("-")[0] for system in matrix["os"]} == {"ubuntu", "macos"}
    images = [entry["image"] for entry in jobs["server"]["strategy"]["matrix"]["include"]]
    assert [image.partition("-")[0] for image in images] == ["redis:7", "redis:8", "valkey/valkey:8", "valkey/valkey:9"]


def test_the_hooks_run_the_tools_of_make_check() -> None:
    recipe = re.search(r"^check:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    hooks: Any = YAML(typ="safe").load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    assert recipe is not None
    # The site and the tests of generated files take longer than a commit may; those are run by Python itself.
    checked = set(re.findall(r"\$\(BIN\)/((?!python)[\w-]+(?: (?:format|check))?)", recipe[1]))
    hooked = {
        found
        for repository in hooks["repos"]
        for hook in repository["hooks"]
        for found in re.findall(r"^\.venv/bin/([\w-]+(?: (?:format|check))?)", hook["entry"])
    }
    assert hooked == checked == {"ruff format", "ruff check", "codespell", "basedpyright", "lint-imports"}


def test_ci_calls_targets_of_the_makefile(jobs: dict[str, Any]) -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    called = {
        target
        for job in jobs.values()
        for step in job["steps"]
        for target in re.findall(r"make ([a-z-]+)", step.get("run", ""))
    }
    assert {"check", "test", "test-fast"} <= called <= targets
