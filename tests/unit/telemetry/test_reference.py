"""The reference page of telemetry and the table of metrics say the same."""

from __future__ import annotations

from pathlib import Path

from snakepit_bridge.telemetry.metrics import CATALOG, Metric
from snakepit_bridge.telemetry.prometheus_meter import prometheus_name

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "telemetry.md"


def row(metric: Metric) -> str:
    labels = [f"`{name}`" for name in metric.labels] + [f"(`{name}`)" for name in metric.optional]
    suffix = "_total" if metric.kind == "counter" else ""
    processes = f"{', '.join(metric.processes)}{'*' if metric.rare else ''}"
    cells = (
        f"`{metric.name}`", f"`{prometheus_name(metric)}{suffix}`", metric.kind, f"`{metric.unit}`", processes,
        ", ".join(labels), metric.description,
    )  # fmt: skip
    return f"| {' | '.join(cells)} |"


def test_the_page_lists_exactly_the_metrics_of_the_table() -> None:
    lines = PAGE.read_text(encoding="utf-8").partition("## Metrics")[2].splitlines()
    listed = [line for line in lines if line.startswith("| `")]
    assert listed == [row(metric) for metric in CATALOG.values()]
