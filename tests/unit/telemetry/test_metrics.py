"""The table of metrics holds nothing that isn't recorded."""

from __future__ import annotations

import ast
from pathlib import Path

from snakepit_bridge.telemetry import metrics

ROOT = Path(__file__).parents[3]


def test_each_metric_of_the_table_is_recorded_somewhere() -> None:
    declared = {name for name, value in vars(metrics).items() if isinstance(value, metrics.Metric)}
    used: set[str] = set()
    for package in ("snakepit_bridge", "tasks", "workers"):
        for path in (ROOT / package).rglob("*.py"):
            if path.name == "metrics.py":
                continue
            nodes = ast.walk(ast.parse(path.read_text(encoding="utf-8")))
            used |= {node.id for node in nodes if isinstance(node, ast.Name)}
    assert declared == declared & used
    assert len(declared) == len(metrics.CATALOG)
