"""What the image contains besides the project: its licences, its bill of materials, and how it is audited."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from importlib.metadata import PathDistribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from deploy.audit import describe, read_audit
from deploy.licences import find_licence, is_allowed, read_licences, read_page, to_page
from deploy.sbom import check, complete, read_bill

ROOT = Path(__file__).parents[3]
LOCK = ROOT / "deploy" / "requirements.lock"
IMAGE = {
    "sys_platform": "linux", "platform_system": "Linux", "os_name": "posix", "python_version": "3.11",
    "python_full_version": "3.11.9",
}  # fmt: skip


def entries(lock: Path) -> list[str]:
    """Return the entries of a lock, each on one line."""
    return [
        line for line in lock.read_text().replace("\\\n", " ").splitlines() if line and not line.startswith((" ", "#"))
    ]


def installed_from(lock: Path) -> set[str]:
    """Return the packages that a lock installs in the image."""
    requirements = [Requirement(entry.split("--hash=")[0].strip()) for entry in entries(lock)]
    return {canonicalize_name(each.name) for each in requirements if each.marker is None or each.marker.evaluate(IMAGE)}


# ------------------------------------------------------------------------------------------------------------ licences


def test_the_page_lists_each_package_of_the_image_and_no_other() -> None:
    assert read_page().keys() == installed_from(LOCK), "run `make licences`"


def test_no_licence_is_unknown_or_forbidden() -> None:
    refused = {name: licence for name, licence in read_page().items() if not is_allowed(licence)}
    assert not refused


def test_the_page_says_what_the_installed_packages_say() -> None:
    here, listed = read_licences(sys.path), read_page()
    both = here.keys() & listed.keys()
    assert len(both) > 100
    assert {name: here[name] for name in both} == {name: listed[name] for name in both}, "run `make licences`"


def test_the_page_is_written_as_it_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.licences.PAGE", tmp_path / "page.md")
    (tmp_path / "page.md").write_text(to_page({"b": "MIT", "a": "MIT OR GPL-2.0-only"}))
    assert read_page() == {"a": "MIT OR GPL-2.0-only", "b": "MIT"}


@pytest.mark.parametrize(
    ("licence", "allowed"),
    [
        ("MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("MIT AND GPL-3.0-only", False),
        ("Apache-2.0 WITH LLVM-exception", True),
        ("MPL-2.0 AND (Apache-2.0 OR AGPL-3.0-only)", True),
        ("AGPL-3.0-or-later", False),
        ("SSPL-1.0", False),
        ("unknown", False),
        ("", False),
    ],
)
def test_a_licence_is_allowed_if_one_that_can_be_chosen_is(licence: str, allowed: bool) -> None:
    assert is_allowed(licence) is allowed


@pytest.mark.parametrize(
    ("metadata", "text", "licence"),
    [
        ("License-Expression: MIT AND PSF-2.0", "", "MIT AND PSF-2.0"),
        ("License: Apache 2.0\nClassifier: License :: OSI Approved :: Apache Software License", "", "Apache-2.0"),
        ("License: The MIT License (MIT)\n Copyright of somebody", "", "MIT"),
        ("License: BSD\nClassifier: License :: OSI Approved :: BSD License", "Neither the name of", "BSD-3-Clause"),
        ("Classifier: License :: OSI Approved :: BSD License", "THIS SOFTWARE IS PROVIDED", "BSD-2-Clause"),
        (
            "License: Dual License\nClassifier: License :: OSI Approved :: BSD License\n"
            "Classifier: License :: OSI Approved :: Apache Software License",
            "neither the name",
            "Apache-2.0 OR BSD-3-Clause",
        ),
        ("License: Proprietary", "", "unknown"),
        ("Summary: nothing", "", "unknown"),
    ],
)
def test_a_licence_is_found_however_a_package_spells_it(tmp_path: Path, metadata: str, text: str, licence: str) -> None:
    folder = tmp_path / "x-1.dist-info"
    folder.mkdir()
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: x\nVersion: 1\n{metadata}\n")
    (folder / "LICENSE").write_text(text)
    (folder / "RECORD").write_text("x-1.dist-info/METADATA,,\nx-1.dist-info/LICENSE,,\n")
    assert find_licence(PathDistribution(folder)) == licence


# --------------------------------------------------------------------------------------------------- bill of materials


def test_a_bill_of_materials_has_versions_hashes_and_licences_and_is_the_same_each_time(tmp_path: Path) -> None:
    lock = tmp_path / "some.lock"
    # The whole lock takes seconds to parse.
    lock.write_text("\n".join(entry for entry in entries(LOCK) if entry.startswith(("celery=", "dspy=", "kombu="))))
    bill = complete(read_bill(lock), read_page())
    check(bill)
    assert bill == complete(read_bill(lock), read_page())
    found = {each["name"]: each for each in bill["components"]}
    assert found.keys() == {"celery", "dspy", "kombu"}
    assert found["celery"]["licenses"] == [{"expression": "BSD-3-Clause"}]
    assert found["celery"]["purl"] == f"pkg:pypi/celery@{found['celery']['version']}"
    assert found["celery"]["externalReferences"][0]["hashes"]
    assert bill["metadata"]["component"]["name"] == "dspex-fleet"
    assert {each["ref"] for each in bill["dependencies"]} == {each["purl"] for each in found.values()} | {
        bill["metadata"]["component"]["bom-ref"]
    }


def test_a_bill_that_is_not_valid_is_refused(tmp_path: Path) -> None:
    lock = tmp_path / "some.lock"
    lock.write_text(next(entry for entry in entries(LOCK) if entry.startswith("vine=")))
    bill = complete(read_bill(lock), {"vine": "no expression of SPDX, (("})
    with pytest.raises(SystemExit, match="isn't valid"):
        check({**bill, "components": [{"type": "library"}]})


def test_a_lock_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="lacking.lock"):
        read_bill(tmp_path / "lacking.lock")


# --------------------------------------------------------------------------------------------------------------- audit


def audited(tmp_path: Path, answer: object, code: int = 0, stderr: str = "") -> tuple[str, bool]:
    """Audit with a stand-in for pip-audit that gives this answer."""
    program = (
        "import json, sys; out = sys.argv[sys.argv.index('--output') + 1]\n"
        f"answer = json.loads({json.dumps(json.dumps(answer))})\n"
        "open(out, 'w').write(json.dumps(answer) if answer else '')\n"
        f"sys.stderr.write({stderr!r}); sys.exit({code})"
    )
    return describe("some.lock", *read_audit(tmp_path / "some.lock", (sys.executable, "-c", program)))


GOOD: Mapping[str, Any] = {"name": "vine", "version": "5.1", "vulns": []}
SKIPPED: Mapping[str, Any] = {"name": "own", "skip_reason": "Dependency not found"}
BAD: Mapping[str, Any] = {"name": "amqp", "version": "1.0", "vulns": [{"id": "PYSEC-1", "fix_versions": ["1.1"]}]}


def test_a_known_vulnerability_fails_the_audit(tmp_path: Path) -> None:
    text, is_good = audited(tmp_path, {"dependencies": [GOOD, SKIPPED, BAD]}, code=1)
    assert not is_good
    assert "amqp 1.0: PYSEC-1 (fixed in 1.1)" in text


def test_packages_that_the_advisories_do_not_know_are_named(tmp_path: Path) -> None:
    text, is_good = audited(tmp_path, {"dependencies": [GOOD, SKIPPED]})
    assert (is_good, text) == (
        True, "some.lock: no known vulnerability in 1 packages, apart from own, which they don't know"
    )  # fmt: skip


@pytest.mark.parametrize(
    ("answer", "stderr"), [({"dependencies": [SKIPPED]}, ""), (None, "x\nConnectionError: no route to host\n")]
)
def test_without_the_advisories_the_audit_says_so_and_goes_on(tmp_path: Path, answer: object, stderr: str) -> None:
    text, is_good = audited(tmp_path, answer, code=1, stderr=stderr)
    assert is_good
    assert "is not audited, since the advisories can't be had here" in text
    assert not stderr or "no route to host" in text


def test_pip_audit_has_the_options_that_it_is_given(tmp_path: Path) -> None:
    (tmp_path / "empty.lock").write_text("# nothing\n")
    packages, problem = read_audit(tmp_path / "empty.lock")
    assert (list(packages), problem) == ([], "")
