"""The parts that the demo starts for itself: an embedded server, the stand-in LM, the worker processes."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import httpx
from celery.utils.nodenames import gethostname, nodename

from snakepit_bridge.client import Fleet
from snakepit_bridge.exceptions import ConfigurationError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.testing import Recorded
from workers import PACKAGE
from workers.dev.process import Child, inherit_environment
from workers.dev.redis_server import EmbeddedRedis
from workers.pools import Pool

# Without the working directory on the path of imports: it may have a module `tasks` of its own.
PYTHON = (sys.executable, "-P")
_READY_S = 90.0
_POLL_S = 0.05
# Long enough that publishes fall between the predictions, short enough to watch.
_LATENCY_S, _JITTER_S = 0.15, 0.1

_METRICS_PORT = "OTEL_EXPORTER_PROMETHEUS_PORT"

STAND_IN = "deterministic stand-in, not a language model"


@dataclass(frozen=True, slots=True)
class DemoLM:
    """The LM that the demo asks.

    Attributes:
        profile: the LM profile that the programs name.
        label: what it is, for people.
        environment: the settings by which workers find it.
        log: URL of its log of requests; None where the LM keeps none that we can read.
    """

    profile: str
    label: str
    environment: Mapping[str, str]
    log: str | None

    def requests(self) -> list[Recorded]:
        """Return every request that it received, oldest first."""
        if self.log is None:
            return []
        return [Recorded.from_json(record) for record in _listed(httpx.get(self.log, timeout=30).json())]


def _listed(answer: Any) -> list[Any]:
    return answer["requests"] if isinstance(answer, dict) else answer


@contextmanager
def redis_server(url: str | None, folder: Path) -> Generator[str]:
    """Yield the URL of the Redis to use: the one given, else an embedded one that is stopped at the end.

    Raises:
        StoreUnavailableError: the one given does not answer.
    """
    if url is not None:
        run_blocking(_ping(url))
        yield url
        return
    with EmbeddedRedis.start(folder / "redis") as server:
        yield server.url


async def _ping(url: str) -> None:
    connection = RedisConnection(url)
    await connection.wait_bounded(connection.client.ping())


@contextmanager
def language_model(named: str | None, questions: Path, folder: Path) -> Generator[DemoLM]:
    """Yield the LM: a model string or profile if one is named, else the stand-in on loopback."""
    if named is not None:
        settings = {"DSPEX_LM": named} if "/" in named else {}
        yield DemoLM("default" if settings else named, named, settings, None)
        return
    log = folder / "lm.log"
    latency = ["--latency-s", str(_LATENCY_S), "--jitter-s", str(_JITTER_S), "--questions", str(questions)]
    server = Child([*PYTHON, "-m", f"{PACKAGE}.dev.stand_in_lm", *latency], log)
    try:
        url = read_announcement(server, log, "url", "the stand-in LM")
        profiles = folder / "profiles.toml"
        profiles.write_text(_PROFILES.format(url=url, note=STAND_IN), encoding="utf-8")
        environment = {"DSPEX_LM_PROFILES": str(profiles), "DSPEX_DEMO_KEY": "none-needed"}
        yield DemoLM("demo", f"profile 'demo': {STAND_IN}", environment, url.removesuffix("/v1") + "/requests")
    finally:
        server.end()


_PROFILES = """\
[profiles.demo]
model = "openai/demo"
api_base = "{url}"
api_key_env = "DSPEX_DEMO_KEY"
note = "{note}"
"""


@contextmanager
def worker_processes(
    fleet: Fleet,
    count: int,
    pool: str,
    environment: Mapping[str, str],
    folder: Path,
    *,
    concurrency: int = 4,
    name: str = "demo",
    module: str = f"{PACKAGE}.worker_command",
) -> Generator[list[Child]]:
    """Run worker processes until the end, and yield them once all answer.

    Args:
        fleet: what they work for.
        count: number of processes.
        pool: the pool by its name.
        environment: their settings.
        folder: where their logs go.
        concurrency: tasks at a time of each.
        name: what their nodes are called by, with a number.
        module: what runs as the worker.

    Raises:
        ConfigurationError: one did not come up in time; quotes the end of its log.
    """
    children: list[tuple[Child, Path]] = []
    nodes = [nodename(f"{name}{number}", gethostname()) for number in range(1, count + 1)]
    try:
        for number in range(1, count + 1):
            log = folder / f"worker-{number}.log"
            command = [*PYTHON, "-m", module, "--pool", Pool(pool).celery_name]
            command += ["-c", str(concurrency)]
            command += ["-Q", fleet.queue, "-n", nodes[number - 1], "-l", "WARNING"]
            command += ["--without-gossip", "--without-mingle"]
            env = inherit_environment({**environment, **Pool(pool).environment})
            env |= metrics_port(number - 1, env)
            children.append((Child(command, log, env=env), log))
        _await_workers(fleet, nodes, children)
        yield [child for child, _ in children]
    finally:
        for child, _ in children:
            child.send_signal(signal.SIGTERM)
        for child, _ in children:
            child.end(signal.SIGCONT)  # a second SIGTERM would cut the end short that the first one began


def metrics_port(number: int, environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the setting by which one of several processes on a host serves its metrics on a port of its own.

    Args:
        number: 0 for the first process, which has the port that is set.
        environment: where the port is set.
    """
    first = environment.get(_METRICS_PORT, "9464")
    return {_METRICS_PORT: str(int(first) + number) if first.isdigit() else first}


def metrics_ports(count: int) -> list[int]:
    """Return the ports on which so many processes serve their metrics; none if they serve none."""
    if "prometheus" not in os.environ.get("OTEL_METRICS_EXPORTER", ""):
        return []
    return [int(metrics_port(number)[_METRICS_PORT]) for number in range(count)]


def _await_workers(fleet: Fleet, nodes: list[str], children: list[tuple[Child, Path]]) -> None:
    # Short at first, so that hardly any time is lost once all are up; busy workers take longer to answer.
    timeouts_s = chain(repeat(0.1, 50), repeat(1.0))

    def up() -> bool:
        dead = [log for child, log in children if not child.running]
        if dead:
            raise ConfigurationError(f"A worker process ended at its start. Its last words: {_tail(dead[0])}")
        answers = fleet.app.control.ping(destination=nodes, timeout=next(timeouts_s), limit=len(nodes))
        return len(answers) >= len(nodes)

    await_condition(up, f"{len(children)} workers that answer", [log for _, log in children])


def read_announcement(server: Child, log: Path, field: str, what: str) -> str:
    """Return a field of the line of JSON by which a server says that it is up.

    Raises:
        ConfigurationError: it ended, or was not up in time; quotes the end of its log.
    """

    def line() -> str | None:
        found = [text for text in log.read_text(encoding="utf-8").splitlines() if text.startswith(f'{{"{field}"')]
        return json.loads(found[0])[field] if found else None

    return await_condition(line, what, [log], server)


def await_condition(condition: Callable[[], Any], what: str, logs: list[Path], server: Child | None = None) -> Any:
    """Return the condition's first true answer, for as long as the server that it is about runs.

    Raises:
        ConfigurationError: there was none in time, or the server ended; quotes the end of the first log.
    """
    until = time.monotonic() + _READY_S
    while time.monotonic() < until:
        if server is not None and not server.running:
            raise ConfigurationError(
                f"{what[0].upper()}{what[1:]} ended at its start. Its last words: {_tail(logs[0])}"
            )
        if found := condition():
            return found
        time.sleep(_POLL_S)
    raise ConfigurationError(f"There was no sign of {what} within {_READY_S:g} s. Last words: {_tail(logs[0])}")


def _tail(log: Path) -> str:
    return " / ".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-5:]) or "none"
