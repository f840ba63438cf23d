"""The build's hook: in the wheel, the repository's top-level folders are packages of ``dspex_fleet``.

``workers``, ``tasks`` and ``config`` are names that would shadow a user's own modules. So the wheel has them as
``dspex_fleet.workers`` and so on, with their import statements changed accordingly; nothing else of a file changes, not
even the number of a line. See docs/decisions/0013-wheel.md.
"""

from __future__ import annotations

import ast
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "dspex_fleet"
FOLDERS = ("workers", "tasks", "config")
_DATA = {"examples/questions.jsonl": f"{PACKAGE}/examples/questions.jsonl"}
_SUFFIXES = {".css", ".j2", ".js", ".lua", ".py", ".svg", ".txt", ".typed"}


class WheelLayout(BuildHookInterface[Any]):
    """Adds the folders to a wheel, but not to an editable installation, which finds them in the checkout."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Write the moved files to a folder of the build, and name them to the builder."""
        if version == "editable":
            return
        root, target = Path(self.root), Path(self.directory) / "wheel-layout"
        shutil.rmtree(target, ignore_errors=True)
        write_package(root, target)
        build_data["force_include"] |= {str(target / PACKAGE): PACKAGE}
        build_data["force_include"] |= {str(root / source): path for source, path in _DATA.items()}

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """Remove the folder."""
        shutil.rmtree(Path(self.directory) / "wheel-layout", ignore_errors=True)


def write_package(root: Path, target: Path) -> None:
    """Write ``dspex_fleet`` with the moved folders below it.

    Args:
        root: the checkout.
        target: where the package goes.

    Raises:
        ValueError: a module has an import that can't be moved.
    """
    for folder in (PACKAGE, *FOLDERS):
        place = target / PACKAGE if folder == PACKAGE else target / PACKAGE / folder
        for source in sorted((root / folder).rglob("*")):
            if source.suffix not in _SUFFIXES or "__pycache__" in source.parts:
                continue
            moved = place / source.relative_to(root / folder)
            moved.parent.mkdir(parents=True, exist_ok=True)
            text = source.read_text(encoding="utf-8")
            moved.write_text(move_imports(text, str(source)) if source.suffix == ".py" else text, encoding="utf-8")


def move_imports(text: str, path: str) -> str:
    """Return a module's text with ``from workers...`` as ``from dspex_fleet.workers...``, on the same line.

    Args:
        text: the module.
        path: its file, for the error.

    Raises:
        ValueError: it has ``import workers.x``, which binds a name that the wheel doesn't have.
    """
    # The offsets of a syntax tree count bytes. From the end, so that those before stay right.
    lines = text.encode().splitlines(keepends=True)
    for node in sorted(_imports(ast.parse(text, path)), key=lambda node: (node.lineno, node.col_offset), reverse=True):
        if isinstance(node, ast.Import):
            if any(_is_moved(alias.name) for alias in node.names):
                raise ValueError(f"{path}:{node.lineno}: write 'from … import …' for modules of {', '.join(FOLDERS)}.")
        elif node.level == 0 and _is_moved(node.module or ""):
            line, at = lines[node.lineno - 1], node.col_offset
            lines[node.lineno - 1] = line[:at] + re.sub(rb"^from\s+", f"from {PACKAGE}.".encode(), line[at:])
    return b"".join(lines).decode()


def _imports(tree: ast.Module) -> Iterator[ast.Import | ast.ImportFrom]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom))


def _is_moved(module: str) -> bool:
    return module.partition(".")[0] in FOLDERS
