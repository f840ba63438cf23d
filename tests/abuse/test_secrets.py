"""No process shows a secret, whatever fails: canaries stand in each setting, and every output is searched.

Worker, gateway, refresher and commands run as processes at DEBUG. Searched are their logs, what clients and commands
say, what the gateway answers, every key of Redis, spans and metrics. The fleet encrypts and signs: what was asked and
answered is a canary too, which Redis, spans, metrics and commands don't show.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import dspy
import httpx
import pytest
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.encryption.cipher import EncryptionOptions
from snakepit_bridge.encryption.keys import KeyRing, generate_key
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.testing import RecordingLM
from tests.harness import programs
from tests.harness.otlp import Collector, collector
from tests.harness.preloaded import PythonProcess, run_preloaded, start_preloaded
from tests.harness.redis_dump import dump
from tests.harness.stage import echo, fresh
from tests.harness.waiting import PATIENCE_S, wait_until
from workers.dev.redis_server import EmbeddedRedis
from workers.gateway import new_token, to_toml

ROOT = Path(__file__).parents[2]
KEY, PASSWORD, PROXY = "sk-canary-key-4711", "canary-redis-4711", "canary-proxy-4711"
HEADER, BASE = "canary-header-4711", "canary-base-4711"
CONTENT = "canary-content-4711"
ENCRYPTION, DIGESTS, SIGNING = (generate_key(name) for name in ("canary", "digests", "signing"))
LITERALS = (KEY, PASSWORD, PROXY, HEADER, BASE, *(key.partition(":")[2] for key in (ENCRYPTION, DIGESTS, SIGNING)))

_PROFILES = """\
default = "demo"
[profiles.demo]
model = "openai/demo"
api_base = "{url}"
api_key_env = "SECRET_LM_KEY"
retry = {{ attempts = 2, backoff_s = 0.05 }}
circuit = {{ failures = 0 }}

[profiles.away]
model = "openai/away"
api_base = "http://me:{base}@127.0.0.1:9/v1"
api_key_env = "SECRET_LM_KEY"
retry = {{ attempts = 1 }}

[profiles.proxied]
model = "openai/proxied"
api_base = "https://127.0.0.1:9/v1"
api_key_env = "SECRET_LM_KEY"
retry = {{ attempts = 1 }}

[profiles.headed]
model = "openai/headed"
api_base = "http://127.0.0.1:9/v1"
api_key_env = "SECRET_LM_KEY"
parameters = {{ extra_headers = {{ X-Team = "{header}" }} }}
retry = {{ attempts = 1 }}
"""


@dataclass
class House:
    """All processes of a fleet, with canaries in their settings."""

    folder: Path
    url: str
    environment: Mapping[str, str]
    lm: RecordingLM
    running: ExitStack
    exported: Collector
    logs: dict[str, Path] = field(default_factory=dict[str, Path])

    def start(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> PythonProcess:
        log = self.logs[name] = self.folder / f"{name}.log"
        command = [sys.executable, "-m", "snakepit_bridge.cli", *arguments]
        child = start_preloaded(command, log, env={**self.environment, **(env or {})}, cwd=ROOT)
        self.running.callback(child.end)
        return child

    def log_of(self, name: str) -> str:
        return self.logs[name].read_text(encoding="utf-8", errors="replace")

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        command = [sys.executable, "-m", "snakepit_bridge.cli", *arguments]
        done = run_preloaded(command, timeout=PATIENCE_S, env={**self.environment, **(env or {})}, cwd=ROOT)
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Generator[House]:
    folder = tmp_path_factory.mktemp("secrets")
    with (
        EmbeddedRedis.start() as server,
        RecordingLM(echo, api_key=KEY) as lm,
        collector() as exported,
        ExitStack() as running,
    ):
        with Redis.from_url(server.url) as client:
            client.config_set("requirepass", PASSWORD)
        url = server.url.replace("redis://", f"redis://:{PASSWORD}@")
        profiles = folder / "profiles.toml"
        profiles.write_text(_PROFILES.format(url=lm.url, base=BASE, header=HEADER), encoding="utf-8")
        environment = {
            **os.environ,
            "DSPEX_REDIS_URL": url,
            "DSPEX_LM_PROFILES": str(profiles),
            "DSPEX_ALLOWED_PACKAGES": "tests",
            "SECRET_LM_KEY": KEY,
            # What the programs print and log is then in the log as well, and has to be masked there.
            "DSPEX_LOG_CONTENT": "true",
            "https_proxy": f"http://me:{PROXY}@127.0.0.1:9",
            "no_proxy": "127.0.0.1",
            "DSPEX_ENCRYPTION_KEYS": f"{ENCRYPTION} {DIGESTS}",
            "DSPEX_SIGNING_KEYS": SIGNING,
            "OTEL_TRACES_EXPORTER": "otlp",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_EXPORTER_OTLP_ENDPOINT": exported.url,
            "OTEL_BSP_SCHEDULE_DELAY": "100",
            "OTEL_METRIC_EXPORT_INTERVAL": "500",
        }
        yield House(folder, url, environment, lm, running, exported)


def shown_in(text: str) -> list[str]:
    return [literal for literal in LITERALS if literal in text]


def test_no_output_of_any_process_shows_a_secret(house: House) -> None:
    token = new_token()
    tokens = house.folder / "tokens.toml"
    tokens.write_text(to_toml("shop", token, ["publish", "predict", "read"], ["*"]), encoding="utf-8")
    house.start("worker", "worker", "--loglevel", "DEBUG", "-c", "8", "--", "-E")
    addresses = ("--http", "127.0.0.1:0", "--grpc", "127.0.0.1:0")
    house.start("gateway", "gateway", *addresses, "--tokens", str(tokens), "--loglevel", "DEBUG")
    house.start("refresher", "refresher", "--bridge", "127.0.0.1:9", "-s", "shop", "--loglevel", "DEBUG")
    wait_until(lambda: " ready." in house.log_of("worker"), "the worker", timeout_s=40)
    seen: dict[str, str] = {}

    keys: dict[str, Any] = {
        "encryption": EncryptionOptions(KeyRing.parse(f"{ENCRYPTION} {DIGESTS}")),
        "signing_keys": KeyRing.parse(SIGNING),
    }
    fleet = Fleet(house.url, wait_s=30, allowed_packages=("tests",), **keys)
    fleet.register("qa", dspy.Predict("question -> answer"))
    fleet.register("blabbing", programs.Blabbing())
    for name in ("away", "proxied", "headed"):
        fleet.register(name, dspy.Predict("question -> answer"), lm=name)
    echoed = {"error": {"message": f"Incorrect API key provided: {KEY}", "headers": {"Authorization": f"Bearer {KEY}"}}}
    house.lm.fail(1, status=401, body=echoed, containing="refused")
    house.lm.fail(2, status=500, body=f"Traceback: Authorization: Bearer {KEY}", containing="broken")
    inputs_by_program = {
        "answered": ("qa", f"{fresh('fine')} {CONTENT}"), "refused": ("qa", fresh("refused")),
        "broken": ("qa", f"{fresh('broken')} {CONTENT}"),
        "raised": ("blabbing", "why?"), "away": ("away", "why?"), "proxied": ("proxied", "why?"),
        "headed": ("headed", "why?"), "unknown": ("nobody", "why?"),
    }  # fmt: skip
    handles = {
        name: fleet.submit(program, {"question": question}) for name, (program, question) in inputs_by_program.items()
    }
    batch = fleet.submit_batch("blabbing", [{"question": f"one {CONTENT}"}, {"question": "two"}])
    for name, handle in [*handles.items(), *((f"batch {number}", single) for number, single in enumerate(batch))]:
        try:
            seen[f"client: {name}"] = repr(handle.get(PATIENCE_S))
            assert name == "answered"
            seen["provenance"] = repr(handle.get(PATIENCE_S).provenance)
        except BridgeError as failed:
            seen[f"client: {name}"] = f"{failed} {failed!r} {failed.args} {failed.__cause__!r}"
    assert "***" in seen["client: refused"], "the provider's words came another way than they should"
    assert "***" in seen["client: raised"]

    unsigned = Fleet(house.url).submit("qa", {"question": "forged"})
    undecryptable = Fleet(house.url, signing_keys=KeyRing.parse(SIGNING)).submit("qa", {"question": "unencrypted"})
    wait_until(lambda: fleet.dead_letters.count() >= 2, "dead messages")
    dead = {letter.task_id: letter for letter in fleet.dead_letters.latest()}
    assert (dead[unsigned.id].reason, dead[undecryptable.id].reason) == ("forged", "rejected")
    ready = json.loads(
        wait_until(lambda: next((t for t in house.log_of("gateway").splitlines() if t[:1] == "{"), ""), "the gateway")
    )
    for bearer in (token, "wrong-canary-token-4711"):
        with httpx.Client(base_url=f"http://{ready['http']}", headers={"Authorization": f"Bearer {bearer}"}) as web:
            for path, body in (
                ("/v1/predictions", {"program": "blabbing", "inputs": {"question": "x"}}),
                ("/v1/n", {}),
            ):
                answer = web.post(path, json=body)
                seen[f"gateway: {path} {bearer[:5]}"] = f"{answer.status_code} {answer.headers} {answer.text}"
    commands: dict[str, tuple[tuple[str, ...], Mapping[str, str]]] = {
        "predict": (("predict", "blabbing", "question=why?"), {}),
        "doctor": (("doctor",), {}),
        "status": (("status",), {}),
        "dead list": (("dead", "list", "--json"), {}),
        "dead show another": (("dead", "show", dead[undecryptable.id].id), {}),
        "malformed keys": (("variables",), {"DSPEX_ENCRYPTION_KEYS": f"{ENCRYPTION}x"}),
        "wrong password": (("status",), {"DSPEX_REDIS_URL": house.url.replace(PASSWORD, f"{PASSWORD}-wrong")}),
        "no URL": (("status",), {"DSPEX_REDIS_URL": f"redis://:{PASSWORD}@host:port/x"}),
    }
    with ThreadPoolExecutor(4) as pool:
        ran = {name: pool.submit(house.run, *words, env=env) for name, (words, env) in commands.items()}
        seen |= {f"command: {name}": done.result() for name, done in ran.items()}
    seen["redis"] = dump(house.url)
    wait_until(lambda: house.exported.spans and house.exported.metrics, "exported spans and metrics")
    seen["spans and metrics"] = f"{house.exported.spans!r} {house.exported.metrics!r}"

    for name in house.logs:
        seen[f"log of the {name}"] = house.log_of(name)
    assert "printed ***" in seen["log of the worker"]
    assert not {place: found for place, text in seen.items() if (found := shown_in(text) + [token] * (token in text))}
    assert not [place for place, text in seen.items() if "wrong-canary-token" in text]
    silent = ("redis", "spans", "provenance", "command", "log of the gateway", "log of the refresher")
    assert not [place for place, text in seen.items() if place.startswith(silent) and CONTENT in text]
    assert CONTENT in seen["client: answered"]


def test_a_key_that_cannot_be_sent_ends_a_worker_by_the_name_of_its_variable(house: House) -> None:
    """What else can be wrong with a key stands in ``tests/unit/lm/test_http_fields.py``."""
    worker = house.start("refusing worker", "worker", "--loglevel", "DEBUG", env={"SECRET_LM_KEY": f"{KEY}\n"})
    wait_until(lambda: not worker.running, "its end", timeout_s=40)
    log = house.log_of("refusing worker")
    assert "SECRET_LM_KEY ends in a line break" in log
    assert worker.returncode == 1
    assert "Traceback" not in log
    assert shown_in(log) == []
