"""The product's modules as the house rules read them."""

from __future__ import annotations

import ast
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[3]
PACKAGES = ("snakepit_bridge", "tasks", "workers", "config")


@cache
def modules() -> dict[str, tuple[Path, ast.Module]]:
    """Return the path and syntax tree of every module of the product, by dotted name; generated code is left out."""
    trees: dict[str, tuple[Path, ast.Module]] = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "generated" not in path.parts:
                dotted = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
                trees[dotted] = path, ast.parse(path.read_text(encoding="utf-8"), str(path))
    return trees
