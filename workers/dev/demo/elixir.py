"""The demo's Elixir side: a snakepit server that owns the session, and a refresher that mirrors it to the fleet.

Without a real server it starts a Python stub of one, and says so.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from redis import Redis

from snakepit_bridge.elixir.client import BridgeClient
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.redis.key_names import FleetKeys
from workers import PACKAGE
from workers.dev.demo.parts import PYTHON, await_condition, metrics_port, read_announcement
from workers.dev.process import Child, inherit_environment

STUB = "a Python stub of snakepit's bridge, not Elixir"
# So that a poll isn't slower than a prediction.
_PACE = ("--poll-s", "0.1", "--poll-max-s", "0.5", "--settle-s", "0.5")


@dataclass(frozen=True, slots=True)
class ElixirSide:
    """The server that owns the demo's session: ``HOST:PORT``, and what it is, for people."""

    address: str
    label: str


@contextmanager
def elixir_server(named: str | None, session: str, folder: Path) -> Generator[ElixirSide]:
    """Yield a server that has the session: the one that is named, else a Python stub, which exits with the demo.

    Raises:
        BridgeError: it doesn't answer.
    """
    if named is not None:
        run_blocking(_with_client(named, lambda client: client.begin_session(session)))
        try:
            yield ElixirSide(named, f"the server at {named}")
        finally:
            run_blocking(_with_client(named, lambda client: client.end_session(session)))
        return
    log = folder / "elixir.log"
    server = Child([*PYTHON, "-m", "snakepit_bridge.testing.elixir.server"], log)
    try:
        address = read_announcement(server, log, "address", "the stub of snakepit's bridge")
        run_blocking(_with_client(address, lambda client: client.begin_session(session)))
        yield ElixirSide(address, STUB)
    finally:
        server.end()


@contextmanager
def refresher(
    bridge: str, session: str, redis_url: str, namespace: str, folder: Path, *, number: int
) -> Generator[None]:
    """Run a refresher of the session until the end.

    Args:
        bridge: ``HOST:PORT`` of the server that owns the session.
        session: what it follows.
        redis_url: where it publishes.
        namespace: prefix of every key.
        folder: where its log goes.
        number: how many processes of the fleet serve metrics on ports before its own.

    Raises:
        ConfigurationError: it did not come up in time; quotes the end of its log.
    """
    log = folder / "refresher.log"
    command = [*PYTHON, "-m", f"{PACKAGE}.refresher", "--bridge", bridge, "--sessions", session, *_PACE]
    settings = {"DSPEX_REDIS_URL": redis_url, "DSPEX_NAMESPACE": namespace, **metrics_port(number)}
    child = Child(command, log, env=inherit_environment(settings))
    try:
        with Redis.from_url(redis_url.replace("redis+socket://", "unix://")) as client:
            await_condition(lambda: client.zcard(FleetKeys(namespace).refreshers), "the refresher", [log], child)
        yield
    finally:
        child.end()


async def _with_client(address: str, call: Callable[[BridgeClient], Awaitable[None]]) -> None:
    client = BridgeClient(address)
    try:
        await call(client)
    finally:
        await client.aclose()
