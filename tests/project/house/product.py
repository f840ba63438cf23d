"""The product's modules as the house rules read them."""

from __future__ import annotations

import ast
import gc
from collections.abc import Iterable
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGES = ("snakepit_bridge", "tasks", "workers", "config")


@cache
def module_paths() -> dict[str, Path]:
    """Return the path of every module of the product, by dotted name; generated code is left out."""
    found = (path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py")))
    return {_dotted_name(path): path for path in found if "generated" not in path.parts}


@cache
def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Return the path and syntax tree of every module of the product, by dotted name; generated code is left out."""
    paths = module_paths()
    trees = parse(paths.values())
    return {name: (path, trees[path]) for name, path in paths.items()}


def parse(paths: Iterable[Path]) -> dict[Path, ast.Module]:
    """Return the syntax trees of files; all of their nodes stay, so that looks for garbage meanwhile find none."""
    gc.disable()
    try:
        return {path: ast.parse(path.read_text(encoding="utf-8"), str(path)) for path in paths}
    finally:
        gc.enable()


def _dotted_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
