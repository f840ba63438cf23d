"""Servers in the forms that a fleet may meet beside a single plain one: a cluster, Sentinel, TLS; all on loopback."""

from __future__ import annotations

import functools
import signal
import socket
import tempfile
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from redis import Redis
from redis.exceptions import RedisError

from tests.harness.waiting import wait_until
from workers.dev.process import Child
from workers.dev.redis_server import find_server

NODES = 3
SLOTS = 16_384


@contextmanager
def local_server(folder: Path, *arguments: str, port: int, **client: Any) -> Generator[Redis]:
    """Run a server with these arguments and yield a client of it, once it answers."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = ["--bind", "127.0.0.1", "--dir", str(folder), "--save", "", "--appendonly", "no"]
    server = Child([str(find_server()), *arguments, *plain], folder / "server.log", cwd=folder)
    try:
        with Redis(port=port, decode_responses=True, **client) as asking:
            wait_until(lambda: _answers(asking), f"the server on port {port} to answer")
            yield asking
    finally:
        server.end(signal.SIGKILL)


@contextmanager
def local_cluster() -> Generator[str]:
    """Run a cluster of three nodes, each with a third of the slots, and yield its URL."""
    with tempfile.TemporaryDirectory(prefix="dspex-cluster-") as folder, ExitStack() as servers:
        ports, buses = free_ports(NODES), free_ports(NODES)
        nodes = [
            servers.enter_context(local_server(Path(folder) / str(port), *_cluster_node(port, bus), port=port))
            for port, bus in zip(ports, buses, strict=True)
        ]
        _join(nodes, ports, buses)
        url = "redis+cluster://" + ",".join(f"127.0.0.1:{port}" for port in ports)
        yield url
        for client in _clients(url):
            client.close()


@functools.cache
def _clients(url: str) -> tuple[Redis, ...]:
    """Return a client of each node of a cluster, the same at every test that empties it."""
    return tuple(Redis(port=int(place.rpartition(":")[2]), decode_responses=True) for place in url.split(","))


def flush(url: str) -> None:
    """Empty every node of a cluster."""
    for node in _clients(url):
        node.flushall()


def cluster_keys(url: str) -> dict[str, int]:
    """Return every key of a cluster with the seconds that it has left, -1 for a key that stays."""
    found: dict[str, int] = {}
    for node in _clients(url):
        names: Any = node.keys("*")
        found |= {name: int(node.ttl(name)) for name in names}  # type: ignore[arg-type]
    return found


def free_ports(count: int) -> list[int]:
    """Return ports that nobody listened on a moment ago."""
    with ExitStack() as probes:
        sockets = [probes.enter_context(socket.socket()) for _ in range(count)]
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in sockets]


def free_ports_in_a_row(count: int) -> range:
    """Return ports that follow each other, and that nobody listened on a moment ago."""
    while True:
        (first,) = free_ports(1)
        try:
            with ExitStack() as probes:
                for port in range(first, first + count):
                    probes.enter_context(socket.socket()).bind(("127.0.0.1", port))
        except (OSError, OverflowError):
            continue
        return range(first, first + count)


def _cluster_node(port: int, bus: int) -> Sequence[str]:
    timeouts = ("--cluster-node-timeout", "5000")
    return ("--port", str(port), "--cluster-enabled", "yes", "--cluster-port", str(bus), *timeouts)


def _join(nodes: Sequence[Redis], ports: Sequence[int], buses: Sequence[int]) -> None:
    share = SLOTS // NODES
    for n, node in enumerate(nodes):
        last = SLOTS - 1 if n == NODES - 1 else (n + 1) * share - 1
        node.execute_command("CLUSTER", "ADDSLOTSRANGE", n * share, last)
        node.execute_command("CLUSTER", "MEET", "127.0.0.1", ports[0], buses[0])
    wait_until(lambda: all(_joined(node) for node in nodes), "the nodes to form a cluster")
    # Until all are linked to all, messages to some are dropped.
    wait_until(lambda: all(_linked(node) for node in nodes), "each node to be linked to each")


def _joined(node: Redis) -> bool:
    info: Any = node.execute_command("CLUSTER INFO")
    known = info if isinstance(info, dict) else dict(line.split(":", 1) for line in info.split())
    return known["cluster_state"] == "ok" and int(known["cluster_known_nodes"]) == NODES


def _linked(node: Redis) -> bool:
    links: Any = node.execute_command("CLUSTER", "LINKS")
    return len(links) == 2 * (NODES - 1)


def _answers(client: Redis) -> bool:
    try:
        return bool(client.ping())
    except (RedisError, OSError):
        return False
