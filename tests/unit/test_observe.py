"""What ships for Prometheus and Grafana: it is valid, its alerts fire, and it names only metrics that there are."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from snakepit_bridge.telemetry.metrics import CATALOG, Metric
from snakepit_bridge.telemetry.prometheus_meter import prometheus_name
from tests.harness.servers import missing
from tests.harness.waiting import PATIENCE_S

FOLDER = Path(__file__).parents[2] / "deploy" / "observe"
DASHBOARDS = sorted((FOLDER / "grafana" / "dashboards").glob("*.json"))
PREFIXES = sorted({metric.name.partition(".")[0] for metric in CATALOG.values()})


def panels(dashboard: Path) -> list[dict[str, Any]]:
    found = json.loads(dashboard.read_text(encoding="utf-8"))["panels"]
    return [panel for panel in found if panel["type"] != "row"]


def rules() -> list[Mapping[str, Any]]:
    groups = YAML(typ="safe").load(FOLDER / "rules.yml")["groups"]
    return [rule for group in groups for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    """Yield where each query stands, and the query."""
    for dashboard in DASHBOARDS:
        for panel in panels(dashboard):
            for target in panel["targets"]:
                yield f"{dashboard.stem}: {panel['title']}", target["expr"]
    for rule in rules():
        yield str(rule.get("alert") or rule["record"]), rule["expr"]


def series(metric: Metric) -> set[str]:
    """Return the names of a metric's series in Prometheus."""
    name = prometheus_name(metric)
    if metric.kind == "histogram":
        return {f"{name}_{suffix}" for suffix in ("bucket", "count", "sum")}
    return {f"{name}_total" if metric.kind == "counter" else name}


SERIES = {name for metric in CATALOG.values() for name in series(metric)}
LABELS = {name.replace(".", "_") for metric in CATALOG.values() for name in (*metric.labels, *metric.optional)}


@pytest.mark.parametrize(("place", "expression"), [pytest.param(*each, id=each[0]) for each in expressions()])
def test_a_query_names_only_metrics_and_labels_that_there_are(place: str, expression: str) -> None:
    named = set(re.findall(rf"(?<![:\w])(?:{'|'.join(PREFIXES)})_\w+", expression))
    recorded = set(re.findall(r"\bdspex:[\w:]+", expression))
    assert named <= SERIES | LABELS
    assert recorded <= {rule["record"] for rule in rules() if "record" in rule}
    assert named & SERIES or recorded or place in ("FleetProcessDown", "dspex:budget_usd_per_hour")


@pytest.mark.parametrize("dashboard", DASHBOARDS, ids=lambda path: path.stem)
def test_a_panel_has_a_title_a_unit_and_a_place_of_its_own(dashboard: Path) -> None:
    occupied: set[tuple[int, int]] = set()
    for panel in panels(dashboard):
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert max(x for x, _ in cells) < 24
        assert not cells & occupied, panel["title"]
        occupied |= cells
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${prometheus}"}


def test_dashboards_have_titles_and_uids_of_their_own() -> None:
    loaded = [json.loads(dashboard.read_text(encoding="utf-8")) for dashboard in DASHBOARDS]
    assert len({each["uid"] for each in loaded}) == len({each["title"] for each in loaded}) == len(DASHBOARDS) >= 3


def test_each_alert_has_a_test_and_a_paragraph_of_advice() -> None:
    tests = YAML(typ="safe").load(FOLDER / "rules_test.yml")["tests"]
    tested = {case["alertname"] for test in tests for case in test.get("alert_rule_test", ()) if case.get("exp_alerts")}
    page = (FOLDER.parents[1] / "docs" / "how-to" / "observe.md").read_text(encoding="utf-8")
    alerts = {rule["alert"] for rule in rules() if "alert" in rule}
    assert tested == alerts
    assert set(re.findall(r"^\| `(Fleet\w+)` \|", page, re.MULTILINE)) == alerts


@pytest.mark.parametrize(
    "arguments",
    [["check", "config", "prometheus.yml"], ["check", "rules", "rules.yml"], ["test", "rules", "rules_test.yml"]],
    ids=" ".join,
)
def test_promtool_accepts_what_ships(arguments: list[str]) -> None:
    if (promtool := shutil.which("promtool")) is None:
        missing("Prometheus's promtool", "prometheus")
    done = subprocess.run(
        [promtool, *arguments], cwd=FOLDER, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
