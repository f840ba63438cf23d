"""KINDS 1: no process shows a secret, whatever fails: canaries stand in each setting, and every output is searched.

Worker, gateway, refresher and commands run as processes at DEBUG. Searched are their logs, what clients and commands
say, what the gateway answers, and every key of Redis.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import dspy
import httpx
import pytest
from redis import Redis

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import BridgeError
from snakepit_bridge.testing import RecordingLM
from tests.harness import programs
from tests.harness.stage import echo, fresh
from tests.harness.waiting import wait_until
from workers.dev.process import Child
from workers.dev.redis_server import EmbeddedRedis
from workers.gateway import new_token, to_toml

ROOT = Path(__file__).parents[2]
KEY, PASSWORD, PROXY = "sk-canary-key-4711", "canary-redis-4711", "canary-proxy-4711"
HEADER, BASE = "canary-header-4711", "canary-base-4711"
LITERALS = (KEY, PASSWORD, PROXY, HEADER, BASE)

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
    logs: dict[str, Path] = field(default_factory=dict[str, Path])

    def start(self, name: str, *arguments: str, env: Mapping[str, str] | None = None) -> Child:
        log = self.logs[name] = self.folder / f"{name}.log"
        command = [sys.executable, "-m", "snakepit_bridge.cli", *arguments]
        child = Child(command, log, env={**self.environment, **(env or {})}, cwd=ROOT)
        self.running.callback(child.end)
        return child

    def log_of(self, name: str) -> str:
        return self.logs[name].read_text(encoding="utf-8", errors="replace")

    def run(self, *arguments: str, env: Mapping[str, str] | None = None) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "snakepit_bridge.cli", *arguments],
            capture_output=True, text=True, timeout=60, check=False, env={**self.environment, **(env or {})}, cwd=ROOT,
        )  # fmt: skip
        return done.stdout + done.stderr


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Generator[House]:
    folder = tmp_path_factory.mktemp("secrets")
    with EmbeddedRedis.start() as server, RecordingLM(echo, api_key=KEY) as lm, ExitStack() as running:
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
        }
        yield House(folder, url, environment, lm, running)


def shown_in(text: str) -> list[str]:
    return [literal for literal in LITERALS if literal in text]


def everything(url: str) -> str:
    """All that Redis holds, as text."""
    texts: list[str] = []
    with Redis.from_url(url) as client:
        for key in client.scan_iter(count=1_000):
            kind: Any = client.type(key)
            read: dict[Any, Any] = {
                b"string": partial(client.get, key), b"list": partial(client.lrange, key, 0, -1),
                b"hash": partial(client.hgetall, key), b"set": partial(client.smembers, key),
                b"zset": partial(client.zrange, key, 0, -1), b"stream": partial(client.xrange, key),
            }  # fmt: skip
            texts.append(f"{key!r} {read[kind]()!r}")
    return "\n".join(texts)


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

    fleet = Fleet(house.url, wait_s=30, allowed_packages=("tests",))
    fleet.register("qa", dspy.Predict("question -> answer"))
    fleet.register("blabbing", programs.Blabbing())
    for name in ("away", "proxied", "headed"):
        fleet.register(name, dspy.Predict("question -> answer"), lm=name)
    echoed = {"error": {"message": f"Incorrect API key provided: {KEY}", "headers": {"Authorization": f"Bearer {KEY}"}}}
    house.lm.fail(1, status=401, body=echoed, containing="refused")
    house.lm.fail(2, status=500, body=f"Traceback: Authorization: Bearer {KEY}", containing="broken")
    inputs_by_program = {
        "answered": ("qa", fresh("fine")), "refused": ("qa", fresh("refused")), "broken": ("qa", fresh("broken")),
        "raised": ("blabbing", "why?"), "away": ("away", "why?"), "proxied": ("proxied", "why?"),
        "headed": ("headed", "why?"), "unknown": ("nobody", "why?"),
    }  # fmt: skip
    handles = {
        name: fleet.submit(program, {"question": question}) for name, (program, question) in inputs_by_program.items()
    }
    batch = fleet.submit_batch("blabbing", [{"question": "one"}, {"question": "two"}])
    for name, handle in [*handles.items(), *((f"batch {number}", single) for number, single in enumerate(batch))]:
        try:
            seen[f"client: {name}"] = repr(handle.get(30))
            assert name == "answered"
        except BridgeError as failed:
            seen[f"client: {name}"] = f"{failed} {failed!r} {failed.args} {failed.__cause__!r}"
    assert "***" in seen["client: refused"], "the provider's words came another way than they should"
    assert "***" in seen["client: raised"]

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
        "wrong password": (("status",), {"DSPEX_REDIS_URL": house.url.replace(PASSWORD, f"{PASSWORD}-wrong")}),
        "no URL": (("status",), {"DSPEX_REDIS_URL": f"redis://:{PASSWORD}@host:port/x"}),
    }
    with ThreadPoolExecutor(len(commands)) as pool:
        ran = {name: pool.submit(house.run, *words, env=env) for name, (words, env) in commands.items()}
        seen |= {f"command: {name}": done.result() for name, done in ran.items()}
    seen["redis"] = everything(house.url)

    for name in house.logs:
        seen[f"log of the {name}"] = house.log_of(name)
    assert "printed ***" in seen["log of the worker"]
    assert not {place: found for place, text in seen.items() if (found := shown_in(text) + [token] * (token in text))}
    assert not [place for place, text in seen.items() if "wrong-canary-token" in text]


def test_a_key_that_cannot_be_sent_ends_a_worker_by_the_name_of_its_variable(house: House) -> None:
    """What else can be wrong with a key stands in ``tests/unit/lm/test_http_fields.py``."""
    worker = house.start("refusing worker", "worker", "--loglevel", "DEBUG", env={"SECRET_LM_KEY": f"{KEY}\n"})
    wait_until(lambda: not worker.running, "its end", timeout_s=40)
    log = house.log_of("refusing worker")
    assert "SECRET_LM_KEY ends in a line break" in log
    assert worker.returncode == 1
    assert "Traceback" not in log
    assert shown_in(log) == []
