"""The Elixir package beside other applications: Hex resolves its requirements together with theirs, and it compiles."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "elixir"
OWN = ("hpax", "mint", "nimble_pool", "nimble_options", "telemetry", "dspex_fleet")
_UNREACHABLE = ("Failed to fetch record", "No package with name", "Could not find Hex", "Could not find an SCM")
_PROJECT = """\
defmodule Beside.MixProject do
  use Mix.Project

  def project, do: [app: :beside, version: "0.1.0", deps: [{{:dspex_fleet, path: {package!r}}}{others}]]
end
"""


def run_mix(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a mix task in a project's folder, within five minutes."""
    mix = shutil.which("mix")
    if mix is None:
        pytest.skip("Elixir isn't installed: there is no mix on the PATH")
    return subprocess.run(
        [mix, *arguments],
        cwd=folder,
        env={**os.environ, "MIX_ENV": "prod"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
        check=False,
    )


@pytest.mark.timeout(700)
@pytest.mark.parametrize(
    "others",
    [
        pytest.param([], id="none"),
        pytest.param(['{:snakepit, "0.4.3"}'], id="snakepit-0.4"),
        pytest.param(['{:snakepit, "0.13.0"}', '{:phoenix_pubsub, "~> 2.1"}'], id="snakepit-0.13"),
        pytest.param(['{:grpc, "~> 0.11"}', '{:protobuf, "~> 0.14.0"}'], id="grpc-0.11"),
    ],
)
def test_the_package_resolves_and_compiles_beside(others: list[str], tmp_path: Path) -> None:
    listed = "".join(f", {other}" for other in others)
    project = _PROJECT.format(package=str(PACKAGE), others=listed).replace("'", '"')
    (tmp_path / "mix.exs").write_text(project, encoding="utf-8")
    resolved = run_mix(tmp_path, "deps.get")
    if resolved.returncode and any(reason in resolved.stdout for reason in _UNREACHABLE):
        pytest.skip("Hex or its registry isn't there")
    assert resolved.returncode == 0, resolved.stdout
    assert "Resolution completed" in resolved.stdout
    compiled = run_mix(tmp_path, "deps.compile", *OWN)
    assert compiled.returncode == 0, compiled.stdout
    assert "Generated dspex_fleet app" in compiled.stdout
