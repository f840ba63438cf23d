"""kombu's Redis channel, with messages that are leased to a worker instead of popped.

Publishing, queues, priorities, fanout and the message format are kombu's own. Delivery and acknowledgement differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from queue import Empty
from typing import Any

import redis
from kombu.transport import redis as stock
from redis.backoff import NoBackoff
from redis.retry import Retry

from snakepit_bridge.client.sentinel import CheckedChannel
from snakepit_bridge.delivery.keys import DeliveryKeys
from snakepit_bridge.redis.outages import is_outage
from snakepit_bridge.redis.sentinel import SentinelService
from workers.broker.claimer import ClaimedMessage, Claimer, QueueList, decode_delivery
from workers.broker.lease_keeper import LeaseKeeper
from workers.broker.lease_keepers import KEEPERS
from workers.broker.lease_settings import LeaseSettings
from workers.broker.leases import LeaseTable
from workers.broker.lua import SCRIPTS
from workers.broker.qos import QoS as OurQoS
from workers.broker.settlement import Settlement
from workers.broker.wire import ClaimConnection

_FLUSH_S = 2.0
_KEEPER_TIMEOUT_S = 5.0
_OPTIONS = ("delivery_key", "lease", "max_deliveries", "hold_limit", "stall", "claim_limit")
# Parameters that kombu passes to the pool, not to its connections.
_POOL_ONLY_PARAMS = {"connection_class", "max_connections"}


class Channel(CheckedChannel):
    """A channel of ``workers.broker:Transport``.

    Its own transport options are ``delivery_key`` (the prefix of its keys), ``lease``, ``max_deliveries``,
    ``hold_limit`` and ``stall`` (see ``LeaseSettings``), and ``claim_limit`` (messages per round trip).
    """

    QoS = OurQoS
    from_transport_options = (*stock.Channel.from_transport_options, *_OPTIONS)

    delivery_key = "dspex:delivery"
    lease = 5.0
    max_deliveries = 5
    hold_limit = 3_600.0
    stall = 10.0
    claim_limit = 32

    sentinel: SentinelService | None = None
    """Where the primary is to be found, if Sentinel knows it."""

    qos: OurQoS  # pyright: ignore[reportIncompatibleMethodOverride, reportIncompatibleVariableOverride]
    _shared_client: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.lost: dict[str, str] = {}
        """The cause of death by claim, for claims whose task's process died."""
        self.rejected: dict[str, tuple[str, str]] = {}
        """Why claims are about to be rejected: a reason of the dead-letter list, and an error."""
        super().__init__(*args, **kwargs)

    # ------------------------------------------------------------ consuming

    def basic_consume(self, queue: str, no_ack: bool, callback: Any, consumer_tag: str, **kwargs: Any) -> Any:
        """Consume from a queue; messages that need no acknowledgement aren't recorded as leased."""
        answer = super().basic_consume(queue, no_ack, callback, consumer_tag, **kwargs)
        if queue not in self._fanout_queues:
            self.claimer.consume(queue, callback, recorded=not no_ack)
            if not no_ack:
                self.leases.channels.add(self)
                self.keeper.start()
        return answer

    def basic_get(self, queue: str, no_ack: bool = False, **kwargs: Any) -> Any:
        """Return a message, or None if none is available."""
        lists = [(queue, self.list_key(queue, step)) for step in reversed(self.priority_steps)]
        while True:
            first, keys, args = self.build_claim(lists, [not no_ack] * len(lists), 1)
            answer = self._run_script("claim", keys, args)
            if len(answer) == 2:
                return None
            place = lists[int(answer[2])][1]
            claimed = ClaimedMessage(queue, place, answer[3], f"{self.leases.worker}.{first}", not no_ack)
            message = decode_delivery(self, claimed)
            if message is not None:
                if not no_ack:
                    self.qos.append(message, claimed.tag)
                    self.keeper.start()
                return message

    def _basic_cancel(self, consumer_tag: str) -> Any:
        queue = self._tag_to_queue.get(consumer_tag)
        answer = super()._basic_cancel(consumer_tag)
        if queue is not None and queue not in self._active_queues and "claimer" in self.__dict__:
            self.claimer.cancel(queue)
        return answer

    def _brpop_read(self, **options: Any) -> Any:
        # kombu's poller calls it when the claim connection is readable.
        if not self.claimer.read():
            raise Empty
        return True

    def close(self) -> None:
        """Close the channel: requeue delivered messages that aren't running, and flush acknowledgements."""
        claimer: Claimer | None = self.__dict__.get("claimer")
        answered = claimer is None or self.closed or claimer.close()
        super().close()
        if "keeper" in self.__dict__:
            self.leases.channels.discard(self)
            if self.leases.unsettled:
                self.keeper.flush(_FLUSH_S if answered else 0.0)

    def _delete(self, queue: str, *args: Any, **options: Any) -> None:
        # A closing channel deletes its queues of remote control and of gossip. While the broker is away these stay,
        # and the rest of the close has to come.
        try:
            super()._delete(queue, *args, **options)
        except Exception as exc:
            if not (self._closing and is_outage(exc)):
                raise

    # ------------------------------------------------------------ claims

    @cached_property
    def keeper(self) -> LeaseKeeper:
        """The thread that renews this process's leases on this broker."""
        params = self._connparams()
        server = (self.sentinel, *(params.get(name) for name in ("host", "port", "path", "db", "username")))
        layout = DeliveryKeys(f"{self.global_keyprefix}{self.delivery_key}", self.global_keyprefix)
        terms = LeaseSettings(self.lease, self.max_deliveries, self.hold_limit, stall_s=self.stall)
        return KEEPERS.get(server, layout, terms, partial(_create_keeper_client, self.sentinel, params))

    @property
    def leases(self) -> LeaseTable:
        """This process's leases on this broker."""
        return self.keeper.leases

    @cached_property
    def claimer(self) -> Claimer:
        """Fetches messages for this channel's consumers."""
        params = {**self._connparams(asynchronous=True), "protocol": 3, "retry": Retry(NoBackoff(), 0)}
        return Claimer(self, ClaimConnection(self._create_connection(params)))

    @property
    def is_claiming(self) -> bool:
        """Whether the claimer has consumers or an open connection."""
        claimer: Claimer | None = self.__dict__.get("claimer")
        return claimer is not None and claimer.active

    def next_queues(self, count: int) -> list[str]:
        """Return the next ``count`` queues in the order in which they are served."""
        return self._queue_cycle.consume(count)

    def rotate_queue(self, queue: str) -> None:
        """Move a queue that was served to the end of the round robin."""
        self._queue_cycle.rotate(queue)

    def list_key(self, queue: str, step: int) -> str:
        """Return the Redis list of a queue's messages of one priority step."""
        return f"{self.global_keyprefix}{self._q_for_pri(queue, step)}"

    def build_claim(
        self, lists: Sequence[QueueList], recorded: Sequence[bool], room: int
    ) -> tuple[int, list[Any], list[Any]]:
        """Return the first claim's number, and the keys and arguments of the claim script."""
        holding, layout = self.leases, self.leases.layout
        first = holding.reserve_numbers(room)
        keys = [layout.workers, layout.ticks, holding.held_key, layout.delayed]
        flags = "".join("1" if is_recorded else "0" for is_recorded in recorded)
        return first, [*keys, *(place for _, place in lists)], [holding.worker, first, room, flags]

    def settle(self, settled: Settlement) -> None:
        """Settle a claim: batched with others if an event loop runs, otherwise at once."""
        self.leases.settle(settled)
        if self.closed:
            # A task that outlived its channel. The broker may be unreachable, so don't wait for it.
            self.keeper.flush(0.0)
        elif self.connection.cycle.hub is None:
            self.keeper.flush(_FLUSH_S)

    def stalled_lists(self, seconds: float) -> list[str]:
        """Return the lists that should have been claimed from within the last ``seconds`` but weren't."""
        claimer: Claimer | None = self.__dict__.get("claimer")
        return claimer.stalled_lists(seconds) if claimer and not self.closed else []

    def force_reconnect(self) -> None:
        """Break the claim connection so that the consumer reconnects; may be called from any thread."""
        self.claimer.wire.abort()

    def _run_script(self, script: str, keys: Sequence[Any], args: Sequence[Any]) -> Any:
        with redis.Redis(connection_pool=self.pool, retry=Retry(NoBackoff(), 0)) as client:
            return client.register_script(SCRIPTS[script].text)(keys, args)

    # ------------------------------------------------------------ kombu's clients

    def _create_client(self, asynchronous: bool = False) -> Any:
        # kombu makes a client for each command, which costs more than the command. A client is thread-safe.
        if asynchronous:
            return super()._create_client(asynchronous=True)
        if self._shared_client is None or self._shared_client.connection_pool is not self.pool:
            self._shared_client = super()._create_client()
        return self._shared_client

    def _create_connection(self, params: dict[str, Any]) -> Any:
        """Return a connection outside of the pools, not yet connected."""
        options = {name: value for name, value in params.items() if name not in _POOL_ONLY_PARAMS}
        return params["connection_class"](**options)


def _create_keeper_client(sentinel: SentinelService | None, params: dict[str, Any]) -> redis.Redis:
    mine: dict[str, Any] = {"max_connections": 2, "socket_timeout": _KEEPER_TIMEOUT_S, "health_check_interval": 0}
    if "path" not in params:
        mine["socket_connect_timeout"] = _KEEPER_TIMEOUT_S
    mine |= {"retry": Retry(NoBackoff(), 0), "retry_on_timeout": False}
    create_pool: Any = redis.ConnectionPool if sentinel is None else sentinel.create_pool
    return redis.Redis(connection_pool=create_pool(**{**params, **mine}))
