"""The committed code of the protos is what the protos say."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness.waiting import PATIENCE_S

ROOT = Path(__file__).parents[2]
GENERATED = Path("snakepit_bridge/elixir/generated")

needs_tools = pytest.mark.skipif(
    importlib.util.find_spec("grpc_tools") is None, reason="grpcio-tools, which generates the code, isn't installed"
)


def written(root: Path) -> dict[str, str]:
    files = [*root.glob(f"{GENERATED}/**/*.py"), *root.glob(f"{GENERATED}/**/*.pyi")]
    return {str(path.relative_to(root)): path.read_text() for path in files if path.name != "__init__.py"}


@needs_tools
def test_the_generated_code_is_that_of_the_protos(tmp_path: Path) -> None:
    command = [sys.executable, str(ROOT / "proto" / "generate.py"), "--out", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 0, done.stderr
    fresh, committed = written(tmp_path), written(ROOT)
    assert len(fresh) == 6
    assert sorted(committed) == sorted(fresh)
    drifted = [name for name in fresh if fresh[name] != committed[name]]
    assert not drifted, f"Run 'make proto' and commit: {drifted} no longer match proto/"
