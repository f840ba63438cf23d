"""Debian's Prometheus, scraping ports of this host."""

from __future__ import annotations

import math
import shutil
import subprocess
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from ruamel.yaml import YAML

from tests.harness.cluster import free_ports
from tests.harness.servers import missing
from tests.harness.waiting import wait_until


@dataclass(frozen=True)
class Prometheus:
    """A running server.

    Attributes:
        url: where its HTTP API is.
    """

    url: str

    def query(self, expression: str, start: float, end: float) -> list[float]:
        """Return the finite values that a query has in a span of time, of all its series.

        Args:
            expression: the query.
            start, end: Unix seconds.

        Raises:
            AssertionError: the server doesn't accept the query.
        """
        parameters = {"query": expression, "start": str(start), "end": str(end), "step": "1"}
        answer = httpx.get(f"{self.url}/api/v1/query_range", params=parameters, timeout=30)
        assert answer.is_success, answer.text
        found: list[Any] = answer.json()["data"]["result"]
        values = [float(value) for series in found for _, value in series["values"]]
        return [value for value in values if math.isfinite(value)]

    def alerts(self) -> dict[str, str]:
        """Return the state of each alert that is pending or firing, by its name."""
        found = httpx.get(f"{self.url}/api/v1/alerts", timeout=30).json()["data"]["alerts"]
        return {alert["labels"]["alertname"]: alert["state"] for alert in found}


@contextmanager
def prometheus(folder: Path, jobs: Mapping[str, Sequence[int]], rules: Path) -> Generator[Prometheus]:
    """Run a server that scrapes every half second; the test is skipped where none is installed, and fails in CI.

    Args:
        folder: for its data.
        jobs: the ports to scrape by the name of their job.
        rules: the file of rules to evaluate.
    """
    binary = shutil.which("prometheus")
    if binary is None:
        missing("Prometheus", "prometheus")
    (port,) = free_ports(1)
    config = folder / "prometheus.yml"
    settings: dict[str, Any] = {
        "global": {"scrape_interval": "500ms", "scrape_timeout": "500ms", "evaluation_interval": "500ms"},
        "rule_files": [str(rules)],
        "scrape_configs": [
            {"job_name": name, "static_configs": [{"targets": [f"127.0.0.1:{each}" for each in ports]}]}
            for name, ports in jobs.items()
        ],
    }
    YAML(typ="safe").dump(settings, config)
    command = [binary, f"--config.file={config}", f"--storage.tsdb.path={folder / 'data'}"]
    command += [f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn"]
    with (folder / "prometheus.log").open("wb") as log, subprocess.Popen(command, stderr=log, stdout=log) as server:
        url = f"http://127.0.0.1:{port}"
        try:
            wait_until(lambda: _is_ready(url), "Prometheus to be ready")
            yield Prometheus(url)
        finally:
            server.terminate()


def _is_ready(url: str) -> bool:
    try:
        return httpx.get(f"{url}/-/ready", timeout=5).is_success
    except httpx.TransportError:
        return False
