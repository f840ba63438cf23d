"""Shared options of the commands, and the fleet that they name."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE, default_queue

if TYPE_CHECKING:
    from snakepit_bridge.client import Fleet
    from snakepit_bridge.encryption.cipher import EncryptionOptions
    from snakepit_bridge.encryption.keys import KeyRing
    from snakepit_bridge.programs.registry import ProgramRegistry
    from snakepit_bridge.redis.connection import RedisConnection
    from snakepit_bridge.snapshots import SnapshotStore


def _check_durability(text: str) -> str:
    """Return a durability as it was given, if it can be one."""
    from snakepit_bridge.redis.replication import Replication

    try:
        Replication.parse(text or "primary")
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from None
    return text


BrokerUrl = Annotated[
    str | None,
    typer.Option(
        "--broker-url", envvar="DSPEX_BROKER_URL", metavar="URL", help="RabbitMQ, if that is the broker.",
        show_default=False,
    ),
]  # fmt: skip
Durability = Annotated[
    str,
    typer.Option(
        "--durability",
        envvar="DSPEX_DURABILITY",
        metavar="primary|replicated(REPLICAS, SECONDS)|fsynced(REPLICAS, SECONDS)",
        help="When a publish, a submit and its result count: once the primary has them, or replicas, or disks too.",
        callback=_check_durability,
    ),
]
RedisUrl = Annotated[
    str | None,
    typer.Option("--redis-url", metavar="URL", help="Redis or Valkey of the fleet.", show_default=False),
]
Session = Annotated[str, typer.Option("--session", "-s", help="Session whose variables it runs under.")]
AtLeast = Annotated[
    str | None,
    typer.Option(metavar="TOKEN", help="Oldest acceptable token of the session, such as the one that publish printed."),
]
Exactly = Annotated[str | None, typer.Option(metavar="TOKEN", help="The exact token of the session to run under.")]
MaxStaleness = Annotated[
    float | None,
    typer.Option(
        min=0.0, metavar="SECONDS", help="Maximum time since the session's authority last confirmed the variables."
    ),
]
OnOutage = Annotated[
    str | None,
    typer.Option(
        "--outage",
        metavar="fail|serve_stale(SECONDS)",
        help="What to do when the store or the authority is unavailable.",
    ),
]
TargetingKey = Annotated[
    str | None,
    typer.Option("--key", metavar="KEY", help="What rollouts and experiments assign it by, such as a user's id."),
]
RequestAttributes = Annotated[
    list[str] | None,
    typer.Option(
        "--attribute",
        metavar="NAME=VALUE",
        help="What is known of its origin, for experiments on a segment; repeatable.",
    ),
]
Bridge = Annotated[
    str | None,
    typer.Option(envvar="DSPEX_BRIDGE", metavar="HOST:PORT", help="Elixir server that owns sessions."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one line of JSON.")]


@dataclass(frozen=True, slots=True)
class FleetAddress:
    """A fleet, as the command line names it.

    Attributes:
        redis_url: its Redis; None for the default.
        namespace: its part of the Redis.
        queue: where its predictions wait.
        is_explicit: whether the URL stood on the command line, and not in the environment.
        broker_url: another broker than that Redis.
        durability: when a publish, a submit and its result count.
    """

    redis_url: str | None = field(repr=False)
    namespace: str = DEFAULT_NAMESPACE
    queue: str = default_queue(DEFAULT_NAMESPACE)
    is_explicit: bool = False
    broker_url: str | None = field(default=None, repr=False)
    durability: str = "primary"

    @property
    def url(self) -> str:
        """The Redis URL, with its password."""
        from snakepit_bridge.client.resources import DEFAULT_URL

        return self.redis_url or DEFAULT_URL

    @property
    def db(self) -> int:
        """The number of the database that the URL names."""
        from snakepit_bridge.redis.urls import database_of

        return database_of(self.url)

    @property
    def encryption(self) -> EncryptionOptions:
        """How the fleet encrypts, as the environment says.

        Raises:
            ConfigurationError: the keys can't be read.
        """
        from snakepit_bridge.encryption.environment import read_environment

        return read_environment()

    @property
    def signing_keys(self) -> KeyRing | None:
        """The keys that sign messages, as the environment says; None for none.

        Raises:
            ConfigurationError: they can't be read.
        """
        from snakepit_bridge.encryption.environment import read_signing_keys

        return read_signing_keys()

    def fleet(self, *, allowed_packages: Iterable[str] = (), wait_s: float = 600.0, bridge: str | None = None) -> Fleet:
        """Return the client."""
        from snakepit_bridge.audit.entries import AuditSource
        from snakepit_bridge.client import Fleet

        return Fleet(
            self.redis_url,
            broker_url=self.broker_url,
            namespace=self.namespace,
            queue=self.queue,
            allowed_packages=allowed_packages,
            wait_s=wait_s,
            bridge=bridge,
            encryption=self.encryption,
            durability=self.durability,
            signing_keys=self.signing_keys,
            source=AuditSource.CLI,
        )

    def without_keys(self) -> Fleet:
        """Return a client without keys, for looking at a fleet where they can't be read."""
        from snakepit_bridge.client import Fleet

        return Fleet(
            self.redis_url,
            broker_url=self.broker_url,
            namespace=self.namespace,
            queue=self.queue,
            durability=self.durability,
        )

    def store(self) -> SnapshotStore:
        """Return the store of the sessions."""
        from snakepit_bridge.audit.entries import AuditSource
        from snakepit_bridge.snapshots import open_store

        return open_store(
            self.url,
            namespace=self.namespace,
            source=AuditSource.CLI,
            cipher=self.encryption.cipher(self.namespace),
        )

    def connection(self) -> RedisConnection:
        """Return a way to Redis itself."""
        from snakepit_bridge.redis.connection import RedisConnection

        return RedisConnection(self.url, namespace=self.namespace)

    def registry(self) -> ProgramRegistry:
        """Return the program registry; loads DSPy."""
        from snakepit_bridge.audit.entries import AuditSource
        from snakepit_bridge.programs.registry import ProgramRegistry

        return ProgramRegistry(
            self.connection(),
            namespace=self.namespace,
            source=AuditSource.CLI,
            cipher=self.encryption.cipher(self.namespace),
        )

    def settings(self) -> dict[str, str]:
        """Return the environment by which a worker finds the same fleet."""
        names = {"DSPEX_NAMESPACE": self.namespace, "DSPEX_QUEUE": self.queue}
        urls = {"DSPEX_REDIS_URL": self.redis_url, "DSPEX_BROKER_URL": self.broker_url}
        return names | {name: url for name, url in urls.items() if url}


def resolve_fleet(ctx: typer.Context, redis_url: str | None) -> FleetAddress:
    """Return what a command talks to: the shared options, and its own ``--redis-url`` if it has one."""
    shared: FleetAddress = ctx.obj
    return shared if redis_url is None else replace(shared, redis_url=redis_url, is_explicit=True)


def is_on_command_line(ctx: typer.Context, parameter: str) -> bool:
    """Return whether a parameter was given as an argument, and not by the environment or its default."""
    source: Any = ctx.get_parameter_source(parameter)
    return source is not None and source.name == "COMMANDLINE"


@contextmanager
def translate_value_errors() -> Generator[None]:
    """Raise a ``ValueError`` of the library, which is about an argument, as a ``BridgeError``."""
    from snakepit_bridge.exceptions import BridgeError

    try:
        yield
    except BridgeError:
        raise
    except ValueError as exc:
        raise BridgeError(str(exc)) from None


def build_targeting(key: str | None, attributes: Iterable[str] | None) -> dict[str, Any]:
    """Return what rollouts and experiments assign a prediction by, as ``Fleet.submit`` takes it.

    Args:
        key: of the prediction; None to assign it by itself.
        attributes: ``NAME=VALUE`` for each; a value that is a JSON number, boolean or null is one.

    Raises:
        BridgeError: the key or an attribute can't be.
    """
    from snakepit_bridge.cli.arguments import parse_json_or_text, parse_pairs
    from snakepit_bridge.protocol.targeting import check_attributes, check_key

    pairs = parse_pairs(attributes or (), "--attribute name=value")
    with translate_value_errors():
        found = check_attributes({name: parse_json_or_text(text) for name, text in pairs.items()})
        return {"key": None if key is None else check_key(key), "attributes": found or None}


def build_options(
    at_least: str | None, exactly: str | None, max_staleness: float | None = None, outage: str | None = None
) -> dict[str, Any]:
    """Return what a prediction asks of its session's revision, as ``Fleet.submit`` takes it.

    Raises:
        BridgeError: a token or the outage contract is malformed, or both tokens are given.
    """
    from snakepit_bridge.protocol.messages import Requirement
    from snakepit_bridge.snapshots.freshness import FreshnessPolicy

    with translate_value_errors():
        required, terms = Requirement.of(at_least, exactly), FreshnessPolicy.of(max_staleness, outage)
    token = {} if required.token is None else {required.kind: required.token}
    return {**token, "max_staleness": terms.max_staleness_s, "outage": None if outage is None else terms.outage}
