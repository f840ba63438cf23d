"""FleetResources: the Redis of a fleet, its broker, and what is read and written there."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property, partial
from typing import TYPE_CHECKING

from celery import Celery

from snakepit_bridge.audit.entries import AuditSource
from snakepit_bridge.client.broker import get_broker_url, is_same_server
from snakepit_bridge.client.celery_app import create_client_app, get_backend_url
from snakepit_bridge.client.fleet_arguments import check_arguments
from snakepit_bridge.client.publisher import MessagePublisher
from snakepit_bridge.client.rabbitmq import is_rabbitmq, resend
from snakepit_bridge.client.results import Results
from snakepit_bridge.client.signing import sign_messages
from snakepit_bridge.client.stream import ChunkReader
from snakepit_bridge.client.task_lookup import TaskFinder
from snakepit_bridge.delivery.payloads import DEFAULT_LIMIT_BYTES, Payloads
from snakepit_bridge.encryption.cipher import NO_ENCRYPTION, Cipher, EncryptionOptions
from snakepit_bridge.encryption.keys import KeyRing
from snakepit_bridge.protocol.json_values import BOUNDS, ValueBounds
from snakepit_bridge.protocol.namespaces import DEFAULT_NAMESPACE, check_namespace, default_queue
from snakepit_bridge.redis.connection import RedisConnection, mask_url
from snakepit_bridge.redis.replication import PRIMARY, Replication
from snakepit_bridge.snapshots.acknowledgements import Acks

if TYPE_CHECKING:
    from snakepit_bridge.client.dead_letters import BlockingDeadLetters
    from snakepit_bridge.client.lm_batches import LMBatches
    from snakepit_bridge.dspy_integration.bounds import TargetBounds
    from snakepit_bridge.elixir.write_back import ElixirAuthority
    from snakepit_bridge.programs.registry import ProgramRegistry
    from snakepit_bridge.snapshots import SnapshotStore

DEFAULT_URL = "redis://localhost:6379/0"


class FleetResources:
    """What a fleet's client reads and writes; each is opened when it is first used.

    Its arguments are those of ``Fleet``.
    """

    def __init__(
        self,
        redis_url: str | None = None,
        *,
        broker_url: str | None = None,
        app: Celery | None = None,
        namespace: str = DEFAULT_NAMESPACE,
        queue: str | None = None,
        wait_s: float = 600.0,
        timeout_s: float = 5.0,
        result_expires_s: int = 86_400,
        allowed_packages: Iterable[str] = (),
        bridge: str | None = None,
        payload_bytes: int = DEFAULT_LIMIT_BYTES,
        bounds: ValueBounds = BOUNDS,
        target_bounds: TargetBounds | None = None,
        encryption: EncryptionOptions = NO_ENCRYPTION,
        durability: str = PRIMARY,
        signing_keys: KeyRing | None = None,
        source: AuditSource = AuditSource.CLIENT,
    ) -> None:
        check_arguments(
            {
                "redis_url": redis_url, "broker_url": broker_url, "app": app, "namespace": namespace, "queue": queue,
                "wait_s": wait_s, "timeout_s": timeout_s, "result_expires_s": result_expires_s,
                "allowed_packages": allowed_packages, "bridge": bridge, "payload_bytes": payload_bytes,
                "bounds": bounds, "encryption": encryption, "durability": durability, "signing_keys": signing_keys,
            }
        )  # fmt: skip
        self.replication = Replication.parse(durability)
        """What publishes, submits and their results wait for."""
        self._durability = durability
        self._given_app = app
        self._broker_url = broker_url
        self._url = redis_url or (get_backend_url(app) if app is not None else DEFAULT_URL)
        self.namespace = check_namespace(namespace)
        self.connection = RedisConnection(self._url, timeout_s=timeout_s, namespace=namespace)
        self.queue = queue or default_queue(namespace)
        self._wait_s = wait_s
        self._timeout_s = timeout_s
        self._expires_s = result_expires_s
        self._allowed = tuple(allowed_packages)
        self._bridge = bridge
        self._payload_bytes = payload_bytes
        self._bounds = bounds
        self._target_bounds = target_bounds
        self._encryption = encryption
        self._signing_keys = signing_keys
        self.source = source

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.connection.url!r})"

    @property
    def url(self) -> str:
        """The Redis URL, without its password."""
        return self.connection.url

    @property
    def broker(self) -> str:
        """The broker's URL, without its password."""
        return mask_url(get_broker_url(self.app))

    @property
    def on_rabbitmq(self) -> bool:
        """Whether the broker is RabbitMQ."""
        return is_rabbitmq(get_broker_url(self.app))

    @property
    def allowed_packages(self) -> tuple[str, ...]:
        """The packages whose code specs and metrics may name."""
        return self._allowed

    @property
    def wait_s(self) -> float:
        """Seconds that waiting for one prediction takes at most."""
        return self._wait_s

    @cached_property
    def store(self) -> SnapshotStore:
        """The store of the fleet's sessions."""
        from snakepit_bridge.snapshots import open_store

        store = open_store(
            self._url,
            namespace=self.namespace,
            timeout_s=self._timeout_s,
            source=self.source,
            cipher=self.cipher,
        )
        return store.with_durability(self._durability)

    @cached_property
    def elixir(self) -> ElixirAuthority | None:
        """The Elixir server that sessions may belong to, if the fleet was told of one."""
        if self._bridge is None:
            return None
        from snakepit_bridge.elixir.demand import SessionDemand
        from snakepit_bridge.elixir.write_back import ElixirAuthority
        from snakepit_bridge.redis.lease import Leases

        demand, leases = SessionDemand(self.connection, namespace=self.namespace), Leases(self.connection)
        return ElixirAuthority(self._bridge, self.store, demand=demand, leases=leases, namespace=self.namespace)

    @cached_property
    def app(self) -> Celery:
        """The Celery app that requests are sent with."""
        app = self._create_app() if self._given_app is None else self._given_app
        if self._signing_keys is not None:
            sign_messages(app, self._signing_keys, namespace=self.namespace)
        return app

    def _create_app(self) -> Celery:
        return create_client_app(
            self._url,
            timeout_s=self._timeout_s,
            expires_s=self._expires_s,
            namespace=self.namespace,
            broker_url=self._broker_url,
        )

    @cached_property
    def results(self) -> Results:
        """The results that this process waits for."""
        return Results(self.app, self.connection, namespace=self.namespace, source=self.source, cipher=self.cipher)

    @cached_property
    def cipher(self) -> Cipher:
        """What encrypts and decrypts what the fleet keeps in Redis.

        Raises:
            ConfigurationError: the keys can't be used.
        """
        return self._encryption.cipher(self.namespace)

    @cached_property
    def payloads(self) -> Payloads:
        """The inputs and results that travel beside their messages."""
        return Payloads(self.connection, self.namespace, self._payload_bytes, self.cipher)

    @cached_property
    def chunks(self) -> ChunkReader:
        """The pieces of answers that are being written."""
        return ChunkReader(self.connection, self.results, self.namespace, self.cipher)

    @cached_property
    def registry(self) -> ProgramRegistry:
        """The registered programs; loads DSPy."""
        from snakepit_bridge.programs.registry import ProgramRegistry

        return ProgramRegistry(self.connection, namespace=self.namespace, source=self.source, cipher=self.cipher)

    @cached_property
    def acks(self) -> Acks:
        """Which revision each worker process applies."""
        return Acks(self.connection, namespace=self.namespace)

    @cached_property
    def dead_letters(self) -> BlockingDeadLetters:
        """What the fleet has given up, to be retried or dropped."""
        from snakepit_bridge.client.dead_letters import BlockingDeadLetters
        from snakepit_bridge.delivery.dead_letters import DeadLetters

        send = partial(resend, self.app) if self.on_rabbitmq else None
        return BlockingDeadLetters(
            DeadLetters(self.connection, namespace=self.namespace, send=send, source=self.source)
        )

    @cached_property
    def lm_batches(self) -> LMBatches:
        """The batches of LM calls that profiles of the batch tier wait for."""
        from snakepit_bridge.client.lm_batches import AsyncLMBatches, LMBatches

        return LMBatches(AsyncLMBatches(self.connection, self.namespace, self.source))

    @cached_property
    def _finder(self) -> TaskFinder | None:
        """None where the broker isn't the Redis that the fleet knows."""
        at_hand = is_same_server(get_broker_url(self.app), self._url)
        return TaskFinder(self.connection, self.namespace, self.queue) if at_hand else None

    @cached_property
    def _publisher(self) -> MessagePublisher:
        return MessagePublisher(
            self.app,
            self.payloads,
            queue=self.queue,
            keep_s=self._expires_s,
            url=self._url,
            replication=self.replication,
        )
