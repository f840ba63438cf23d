"""Writes the Python code of the protos: ``python proto/generate.py``, into ``snakepit_bridge/elixir/generated``.

The protos are mapped to the folder of the generated code, so that the imports that protoc writes are right as they are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

PROTO = Path(__file__).parent
PACKAGE = "snakepit_bridge/elixir/generated"


def generate(out: Path) -> int:
    """Write the generated code below ``out``, a checkout's root, and return protoc's exit code."""
    from grpc_tools import protoc

    well_known = Path(protoc.__file__).parent / "_proto"
    protos = sorted(path.relative_to(PROTO).as_posix() for path in PROTO.rglob("*.proto"))
    outputs = [f"--{kind}_out={out}" for kind in ("python", "pyi", "grpc_python")]
    return protoc.main(
        ["protoc", f"-I{PACKAGE}={PROTO}", f"-I{well_known}", *outputs, *(f"{PACKAGE}/{name}" for name in protos)]
    )


def main() -> int:
    """Generate into the checkout, or below the given folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=PROTO.parent, help="a checkout's root, by default this one's")
    return generate(parser.parse_args().out)


if __name__ == "__main__":
    sys.exit(main())
