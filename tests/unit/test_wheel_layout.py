"""The build's hook: which lines of a module it changes, what it refuses, and that no text needs such a change."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from hatch_build import FOLDERS, move_imports
from snakepit_bridge.protocol.messages import FLEET_TASKS

ROOT = Path(__file__).parents[2]

MODULE = '''\
"""Names such as workers.pool and from tasks import x in a text stay."""
from __future__ import annotations

import asyncio, config_of_others
from typing import TYPE_CHECKING
from workers import (
    pools,
    task_ends as endings,  # from workers
)
from  tasks.predict import predict
from tasks_of_others import task

if TYPE_CHECKING:
    from config import celery


def later() -> None:
    from workers.broker import Transport  # from tasks
'''


def test_the_imports_of_the_folders_change_and_nothing_else() -> None:
    moved = move_imports(MODULE, "m.py").splitlines()
    changed = {line for line in moved if line not in MODULE.splitlines()}
    assert changed == {
        "from dspex_fleet.workers import (",
        "from dspex_fleet.tasks.predict import predict",
        "    from dspex_fleet.config import celery",
        "    from dspex_fleet.workers.broker import Transport  # from tasks",
    }
    assert len(moved) == len(MODULE.splitlines())


def test_several_imports_on_a_line_change() -> None:
    assert (
        move_imports("x = 'ä'; from tasks import a; from workers import b\n", "m.py")
        == "x = 'ä'; from dspex_fleet.tasks import a; from dspex_fleet.workers import b\n"
    )


@pytest.mark.parametrize("line", ["import workers.pool", "import asyncio, tasks", "import config as settings"])
def test_an_import_that_binds_a_folders_own_name_is_refused(line: str) -> None:
    with pytest.raises(ValueError, match=r"m\.py:2: write 'from … import …'"):
        move_imports(f"import os\n{line}\n", "m.py")


def texts(tree: ast.AST) -> Iterator[ast.Constant]:
    """Iterate over a module's texts but its docstrings."""
    documented = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documented:
            yield node


def test_no_text_names_a_module_by_its_place_in_the_checkout() -> None:
    """A text isn't changed, so the name comes from the package itself: ``PACKAGE``, ``__package__``, ``__name__``."""
    modules = re.compile(rf"(?:{'|'.join(FOLDERS)})(?:\.\w+)+(?::\w+)?|(?:workers|tasks):\w+")
    named = {
        f"{path.relative_to(ROOT)}:{text.lineno}: {text.value}"
        for folder in (*FOLDERS, "dspex_fleet")
        for path in sorted((ROOT / folder).rglob("*.py"))
        for text in texts(ast.parse(path.read_text(encoding="utf-8")))
        if modules.fullmatch(str(text.value)) and text.value not in FLEET_TASKS
    }
    assert named == set()
