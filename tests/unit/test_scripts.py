"""Scripts put together: what a script needs stands above it, each library once."""

from __future__ import annotations

import sys
from collections.abc import Generator
from pathlib import Path
from uuid import uuid4

import pytest

from snakepit_bridge.scripts import source


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Generator[str]:
    name = f"lua_of_{uuid4().hex}"
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").touch()
    (folder / "ground.lua").write_text("-- ground")
    (folder / "left.lua").write_text("-- needs: ground\n-- left")
    (folder / "right.lua").write_text("-- needs: ground, handed\n-- right")
    (folder / "top.lua").write_text("-- needs: left, right\n-- top")
    monkeypatch.syspath_prepend(tmp_path)
    yield name
    sys.modules.pop(name, None)


def test_a_script_that_needs_nothing_is_its_file(package: str) -> None:
    assert source(package, "ground") == "-- ground"


def test_libraries_stand_above_what_needs_them_and_each_once(package: str) -> None:
    lines = source(package, "top", handed="-- from elsewhere").splitlines()
    assert [line for line in lines if not line.startswith("-- needs")] == [
        "-- ground",
        "-- left",
        "-- from elsewhere",
        "-- right",
        "-- top",
    ]


@pytest.mark.parametrize("script", ["nothing", "right"])
def test_a_script_or_a_library_that_there_is_not_is_an_error(package: str, script: str) -> None:
    with pytest.raises(FileNotFoundError):
        source(package, script)
