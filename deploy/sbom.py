"""Writes the bill of materials of a lock, as CycloneDX has it, with the licences that docs/reference/licences.md lists.

    python deploy/sbom.py deploy/requirements.lock dist/dspex-fleet-0.2.0.image.cdx.json

It is the same for the same lock and version, and asks no registry.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cyclonedx.schema import OutputFormat, SchemaVersion
from cyclonedx.validation import make_schemabased_validator

ROOT = Path(__file__).parent.parent
_COMMAND = ("cyclonedx_py", "requirements", "--output-reproducible", "--sv", "1.6", "--of", "JSON", "--no-validate")


def read_bill(lock: Path) -> dict[str, Any]:
    """Return the bill of materials of a lock, with names, versions and hashes.

    Raises:
        SystemExit: the tool failed.
    """
    command = [sys.executable, "-m", *_COMMAND, "--pyproject", str(ROOT / "pyproject.toml"), str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"cyclonedx-py can't read {lock}: {done.stderr.strip()}")
    bill: dict[str, Any] = json.loads(done.stdout)
    return bill


def complete(bill: dict[str, Any], licences: Mapping[str, str]) -> dict[str, Any]:
    """Return the bill with licences, and without what repeats the lock's lines."""
    for component in bill["components"]:
        component.pop("description", None)
        component["bom-ref"] = component["purl"]
        if expression := licences.get(component["name"].lower()):
            component["licenses"] = [{"expression": expression}]
    bill["dependencies"] = [{"ref": component["purl"]} for component in bill["components"]]
    root = bill["metadata"]["component"]["bom-ref"]
    bill["dependencies"].append({"ref": root, "dependsOn": [component["purl"] for component in bill["components"]]})
    return bill


def check(bill: Mapping[str, Any]) -> None:
    """Check a bill against the schema of CycloneDX 1.6.

    Raises:
        SystemExit: it isn't valid.
    """
    validator: Any = make_schemabased_validator(OutputFormat.JSON, SchemaVersion.V1_6)
    if problem := validator.validate_str(json.dumps(bill)):
        raise SystemExit(f"The bill of materials isn't valid: {problem}")


def main(lock: str, out: str) -> None:
    """Write the bill of materials of a lock."""
    sys.path.insert(0, str(ROOT))
    from deploy.licences import read_page

    bill = complete(read_bill(Path(lock)), read_page())
    check(bill)
    Path(out).parent.mkdir(parents=True, exist_ok=True)
    Path(out).write_text(json.dumps(bill, indent=1, sort_keys=True) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
