"""How soon a candidate that fails is rolled back, once what was counted of it breaches a guard.

A worker on embedded parts runs a session of which half of the predictions get a candidate whose LM refuses them.
Predictions are made one after the other, and after each the rollout's report says whether a guard is breached; the
last report without a breach is the earliest moment at which the breach can have been.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import dspy

from benchmarks._bare import SIGNATURE
from benchmarks._parts import MODEL, Bench, bench
from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.releases.report import RolloutReport
from snakepit_bridge.rollouts.guards import GuardVerdict
from snakepit_bridge.rollouts.records import POLICY_VARIABLE, RolloutState

_RUNS = 9
_POLICY = json.dumps({
    "stages": [{"share": 0.5, "min_s": 3600}],
    "guards": [{"metric": "error_rate", "max_increase": 0.01}],
})  # fmt: skip


def measure_rollbacks(*, quick: bool = False) -> list[float]:
    """Return the seconds from the breach to the rollback of each run, shortest first.

    They are by the server's clock, and too long by up to the time of one prediction and one report.

    Args:
        quick: 1 run instead of 9.
    """
    with bench(fast=True) as parts, _refusing_lm() as refusing_url:
        parts.fleet.register("bench", dspy.Predict(SIGNATURE), bindings={"model": "model"})
        profiles = _write_profiles(parts, refusing_url)
        with parts.workers(1, "asyncio", environment={"DSPEX_LM_PROFILES": str(profiles)}):
            return sorted(_measure(parts.fleet, f"session-{number}") for number in range(1 if quick else _RUNS))


def _measure(fleet: Fleet, session: str) -> float:
    variables = fleet.session(session).blocking
    variables.set_variables({"model": "bench", POLICY_VARIABLE: _POLICY})
    _predict(fleet, session)
    variables.set_variable("model", "refusing")
    healthy_s = _server_time(fleet, session)
    while not _is_breached(report := fleet.rollouts.show(session)):
        healthy_s = _server_time(fleet, session)
        _predict(fleet, session)
    while report.record.state is not RolloutState.ROLLED_BACK:
        report = fleet.rollouts.show(session)
    return round(report.events[-1].at - healthy_s, 3)


def _is_breached(report: RolloutReport) -> bool:
    return any(guard.verdict is GuardVerdict.BREACHED for guard in report.guards)


def _predict(fleet: Fleet, session: str) -> None:
    with suppress(BridgeError):
        fleet.submit("bench", {"question": "What is 1 + 1?"}, session=session).get(30)


def _server_time(fleet: Fleet, session: str) -> float:
    return run_blocking(fleet.store.head(session)).now


def _write_profiles(parts: Bench, refusing_url: str) -> Path:
    path = parts.folder / "two-profiles.toml"
    path.write_text(
        "".join(
            f'[profiles.{name}]\nmodel = "{MODEL}"\napi_base = "{url}"\napi_key_env = "DSPEX_BENCH_KEY"\n'
            for name, url in (("bench", parts.lm.url), ("refusing", refusing_url))
        )
    )
    return path


class _Refusal(BaseHTTPRequestHandler):
    """Refuses every request as one with a wrong key, which isn't tried again."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        body = b'{"error": {"message": "no such key", "type": "invalid_request_error", "code": "invalid_api_key"}}'
        self.send_response(401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Log nothing."""


@contextmanager
def _refusing_lm() -> Generator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Refusal)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
