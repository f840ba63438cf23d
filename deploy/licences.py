"""Writes the page that lists the licences of the packages in the image.

    python deploy/licences.py SITE_PACKAGES docs/reference/licences.md

The packages are read where they are installed; `make licences` installs those of the image's lock.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import Distribution, distributions
from pathlib import Path
from typing import Any

from license_expression import ExpressionError, get_spdx_licensing

PAGE = Path(__file__).parent.parent / "docs" / "reference" / "licences.md"

ALLOWED = frozenset(
    [
        "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CC0-1.0", "CNRI-Python", "ISC", "MIT", "MIT-0",
        "MPL-2.0", "PSF-2.0", "Unlicense", "Zlib",
    ]
)  # fmt: skip
"""The licences that a package of the image may have. They ask for a notice, MPL-2.0 for changes of its files too."""

# How packages spell their licences that have no SPDX expression, in lower case.
_SPELLINGS = {
    "3-clause bsd license": "BSD-3-Clause",
    "apache 2.0": "Apache-2.0",
    "apache license 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "apache software license": "Apache-2.0",
    "isc license": "ISC",
    "isc license (iscl)": "ISC",
    "mit license": "MIT",
    "mozilla public license 2.0 (mpl 2.0)": "MPL-2.0",
    "new bsd": "BSD-3-Clause",
    "python software foundation license": "PSF-2.0",
    "the mit license (mit)": "MIT",
}
_BSD = {"bsd", "bsd license"}
# The third clause; what a licence says that has two lacks it.
_THIRD_CLAUSE = re.compile(r"neither\s+the\s+names?|may\s+not\s+be\s+used\s+to\s+endorse", re.IGNORECASE)
_ROW = re.compile(r"^\| `(?P<name>[^`]+)` \| (?P<licence>[^|]+) \|$", re.MULTILINE)
_LICENSING: Any = get_spdx_licensing()

_HEADER = """\
# Licences

The packages of the image, `deploy/requirements.lock`, and the [SPDX expressions](https://spdx.org/licenses/) of their
licences. `make licences` writes this page from the installed packages, and a test holds it against the lock. A new
package has to have one of {allowed}.
`make sbom` writes the same into the bills of materials, with versions and hashes.

The image also contains Debian's packages of `python:3.11-slim`, each with its licence in `/usr/share/doc`, and
Pyodide from the npm registry (MPL-2.0), in which LM-written code runs. DSPex Fleet itself is MIT.

| package | licence |
|---|---|
"""


def read_licences(site_packages: Sequence[str]) -> dict[str, str]:
    """Return the SPDX expression of each package that is installed there; ``unknown`` where it can't be told."""
    return {_canonical(each.name): find_licence(each) for each in distributions(path=list(site_packages))}


def find_licence(package: Distribution) -> str:
    """Return the SPDX expression of a package's licence, or ``unknown``."""
    metadata: Any = package.metadata
    if expression := metadata.get("License-Expression"):
        return str(expression)
    classifiers = [text for text in metadata.get_all("Classifier", []) if text.startswith("License ::")]
    declared = str(metadata.get("License") or "").strip().partition("\n")[0].strip()
    names = [declared, *(text.rpartition("::")[2].strip() for text in classifiers)]
    for name in names:
        if is_known(name):
            return name
    found = {_translate(name, package) for name in (names[1:] or names)} | {_translate(declared, package)}
    return " OR ".join(sorted(found - {""})) or "unknown"


def _translate(name: str, package: Distribution) -> str:
    lowered = name.lower()
    if lowered in _BSD:
        return "BSD-3-Clause" if _THIRD_CLAUSE.search(_read_licence_files(package)) else "BSD-2-Clause"
    return _SPELLINGS.get(lowered, "")


def _read_licence_files(package: Distribution) -> str:
    files = [each for each in package.files or () if re.match(r"(licen[cs]e|copying)", each.name, re.IGNORECASE)]
    return "\n".join(Path(str(each.locate())).read_text(encoding="utf-8", errors="replace") for each in files)


def is_known(expression: str) -> bool:
    """Check whether a text is an SPDX expression."""
    try:
        return bool(expression) and _LICENSING.parse(expression, validate=True) is not None
    except ExpressionError:
        return False


def is_allowed(expression: str) -> bool:
    """Check whether a licence, or one that may be chosen instead, is allowed; an unknown one isn't."""
    return is_known(expression) and _allows(_LICENSING.parse(expression))


def _allows(parsed: Any) -> bool:
    if not parsed.args:
        return parsed.render().partition(" WITH ")[0] in ALLOWED
    return (all if parsed.operator.strip() == "AND" else any)(_allows(each) for each in parsed.args)


def to_page(licences: Mapping[str, str]) -> str:
    """Return the page that lists them."""
    rows = [f"| `{name}` | {licences[name]} |\n" for name in sorted(licences)]
    *most, last = sorted(ALLOWED)
    return _HEADER.format(allowed=f"{', '.join(most)} or {last}") + "".join(rows)


def read_page() -> dict[str, str]:
    """Return the licences that the page lists, by package."""
    return {found["name"]: found["licence"] for found in _ROW.finditer(PAGE.read_text(encoding="utf-8"))}


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def main(site_packages: str, page: str) -> None:
    """Write the page.

    Raises:
        SystemExit: a licence isn't allowed; the page is written all the same.
    """
    found = read_licences([site_packages])
    Path(page).write_text(to_page(found), encoding="utf-8")
    if refused := {name: licence for name, licence in found.items() if not is_allowed(licence)}:
        raise SystemExit(f"These licences are not among the allowed ones: {refused}")


if __name__ == "__main__":
    main(*sys.argv[1:])
