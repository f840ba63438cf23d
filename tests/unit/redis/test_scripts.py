"""Scripts put together: what a script needs stands above it, each library once."""

from __future__ import annotations

import re
import sys
from collections.abc import Generator
from pathlib import Path
from uuid import uuid4

import pytest

from snakepit_bridge.redis.scripts import source


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


def test_a_script_without_libraries_is_its_file(package: str) -> None:
    assert source(package, "ground") == "-- ground"


def test_libraries_precede_their_users_and_appear_once(package: str) -> None:
    lines = source(package, "top", handed="-- from elsewhere").splitlines()
    assert [line for line in lines if not line.startswith("-- needs")] == [
        "-- ground",
        "-- left",
        "-- from elsewhere",
        "-- right",
        "-- top",
    ]


@pytest.mark.parametrize("script", ["nothing", "right"])
def test_a_missing_script_or_library_raises(package: str, script: str) -> None:
    with pytest.raises(FileNotFoundError):
        source(package, script)


ROOT = Path(__file__).parents[3]
LUA = sorted(path for room in ("snakepit_bridge", "tasks", "workers") for path in (ROOT / room).rglob("*.lua"))


@pytest.mark.parametrize("path", LUA, ids=lambda path: path.stem)
def test_a_script_reads_the_clock_once(path: Path) -> None:
    """Redis 7.0's clock goes on while a script runs, so two readings of it differ.

    One reading is made at the top of a file, or in a function that keeps it.
    """
    text = path.read_text(encoding="utf-8")
    assert len(re.findall("TIME['\"]", text)) <= 1
    for found in re.finditer(r"^( +)local \w+ = redis\.call\('TIME'\)", text, re.MULTILINE):
        before = text[: found.start()].rstrip().splitlines()[-1]
        assert re.fullmatch(r" *if not \w+ then", before), f"{path.name} reads the clock at each call of a function"
