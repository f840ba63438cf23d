"""Publishing requests: a stock Celery message for one prediction or for many, and the keys that make each of them one.

On Redis an idempotency key is reserved and its message enqueued by one script: a client that dies at any point leaves
both or neither. Another broker can't be part of that. There the key is reserved first and marked once the message is
out; a client that submits the key while it is unmarked waits briefly and then sends the message itself, under the same
task id.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Generator, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import cache, cached_property
from typing import Any, cast
from uuid import uuid4

import kombu.pools
from celery import Celery
from kombu.exceptions import EncodeError

from snakepit_bridge.client import lua
from snakepit_bridge.client.broker import check_durability, get_broker_url, is_same_server
from snakepit_bridge.client.message_encoder import MessageEncoder
from snakepit_bridge.client.rabbitmq import (
    CONFIRM_WITHIN_S,
    acquire_confirmed_producer,
    is_rabbitmq,
    make_queue,
    to_broker_error,
)
from snakepit_bridge.client.submission import PendingPrediction, Reservation, build_pending, record_submit
from snakepit_bridge.delivery.keys import DeliveryKeys
from snakepit_bridge.delivery.payloads import Payloads
from snakepit_bridge.exceptions import IdempotencyConflictError, InputError
from snakepit_bridge.process.home_loop import run_blocking
from snakepit_bridge.protocol.json_values import escape
from snakepit_bridge.protocol.messages import (
    HIDDEN,
    PREDICT,
    PREDICT_BATCH,
    PROGRAM,
    REPLY_CHANNEL,
    SENT_AT,
    TASK_IDS,
    PredictionRequest,
    code_queue,
)
from snakepit_bridge.redis.connection import RedisConnection
from snakepit_bridge.redis.key_names import FleetKeys, IdempotencyKey
from snakepit_bridge.redis.replication import Replication

# Three tries within about a second, so that no caller hangs when the broker is unreachable.
RETRY_POLICY = {"max_retries": 2, "interval_start": 0.2, "interval_step": 0.2, "interval_max": 0.4}
# A client that holds a reservation for longer has died, or is about to find the broker unreachable.
_MAX_SEND_S = 3.0
_POLL_INTERVAL_S = 0.02
# What a header may be that a message needn't have.
_DEFAULTS = (None, False, 0, {}, [None, None])
_KEPT = ("eta", "group")  # Celery reads them for its signal task_sent
# Payloads outlive a deadline by as much as clocks may differ.
_CLOCK_SKEW_S = 60.0


@dataclass(frozen=True, slots=True)
class SentRequest:
    """A request that is on its way, or was before: its task, and the channel that its first message names."""

    task_id: str
    replies: str


class MessagePublisher:
    """Sends requests to the broker.

    Args:
        app: the Celery app.
        payloads: where inputs go that are too large for a message; its Redis holds the reservations too.
        queue: where workers take predictions from.
        keep_s: seconds that an idempotency key is remembered.
        url: the URL of that Redis, to find out whether it is the broker as well.
        replication: what a message waits for, if that Redis is the broker, and its result in any case.
    """

    def __init__(
        self, app: Celery, payloads: Payloads, *, queue: str, keep_s: int, url: str, replication: Replication
    ) -> None:
        self._app = app
        self._payloads = payloads
        self._connection: RedisConnection = payloads.connection
        self._queue = queue
        self._keep_s = keep_s
        self._url = url
        self._replication = replication
        self._waits = replication.waits
        self._durability = replication.headers()
        self._pid = os.getpid()

    def submit(
        self,
        request: PredictionRequest,
        inputs: Sequence[Mapping[str, Any]],
        *,
        priority: int,
        keys: Sequence[IdempotencyKey | None],
        replies: str,
        batch: bool = False,
    ) -> list[SentRequest]:
        """Send the predictions of some inputs in one message; one whose idempotency key is known isn't sent again.

        Args:
            request: what they have in common; its own inputs don't matter.
            inputs: the inputs of each.
            priority: 0 to 9, the most urgent.
            keys: an idempotency key, or None, for each.
            replies: the channel on which the client wants to be told of their ends.
            batch: whether the message is one for a batch. A message for a single prediction has one input.

        Raises:
            InputError: the inputs aren't JSON.
            IdempotencyConflictError: a key belongs to another request; nothing was sent.
            ConfigurationError: the servers can't give the durability; nothing was sent.
            NotReplicatedError: the message is sent, but on fewer servers than it was to wait for.
            StoreUnavailableError: the broker or Redis is away.
        """
        if self._waits:
            run_blocking(check_durability(self._replication, self._connection, self._broker, self._url))
            if self._can_enqueue_by_script:
                # What is waited for is a script's write, and a script that is sent twice needs a key.
                keys = [uuid4().hex if key is None else key for key in keys]
        asks = build_pending(request, inputs, keys, self._payloads.namespace, replies, cipher=self._payloads.cipher)
        # The same key twice is one prediction.
        different = list({ask.task_id: ask for ask in asks}.values())
        with record_submit(self._queue, request.program, [ask.task_id for ask in different]) as submit:
            headers = {**submit.headers, **self._durability}
            order = _SendOptions(request, priority, replies, batch, headers)
            known = self._deliver(order, different)
            submit.sent = len(known) < len(different)
        return [known.get(ask.task_id) or SentRequest(ask.task_id, replies) for ask in asks]

    def send(
        self,
        name: str,
        message: Any,
        *,
        priority: int,
        headers: Mapping[str, Any],
        program: str,
        queue: str | None = None,
    ) -> None:
        """Send a task message that is made already, to the queue of predictions or to another one.

        Raises:
            InputError: it holds what isn't JSON.
            StoreUnavailableError: the broker is away, or hasn't confirmed that it has the message.
            ConfigurationError: RabbitMQ has the queue with other settings.
        """
        self._reset_after_fork()
        try:
            with self._producer() as producer, _reconnect_after_error(producer):
                self._app.amqp.send_task_message(
                    producer,
                    name,
                    message,
                    priority=priority,
                    headers=dict(headers),
                    retry=True,
                    retry_policy=RETRY_POLICY,
                    **self._route(queue or self._queue),
                )
        except (EncodeError, TypeError) as exc:
            raise _input_error(program, exc) from exc
        except Exception as exc:
            named = to_broker_error(exc, self._broker, queue or self._queue)
            if named is None:
                raise
            raise named from exc

    def _deliver(self, order: _SendOptions, asks: list[PendingPrediction]) -> dict[str, SentRequest]:
        """Send what isn't known, and return what is."""
        keyed = [ask for ask in asks if ask.key is not None]
        if not keyed:
            self._send(order, asks)
            return {}
        if self._can_enqueue_by_script:
            return self._enqueue(order, asks)
        known = run_blocking(self._reserve_all(keyed))
        if fresh := [ask for ask in asks if ask.task_id not in known]:
            self._send(order, fresh)
            run_blocking(self._mark_sent([ask for ask in fresh if ask.key is not None]))
        return known

    def _enqueue(self, order: _SendOptions, asks: list[PendingPrediction]) -> dict[str, SentRequest]:
        known: dict[str, SentRequest] = {}
        while fresh := [ask for ask in asks if ask.task_id not in known]:
            name, message = self._build_message(order, fresh)
            try:
                sheet = self._encoder.encode(name, message, self._queue, order.priority, order.headers())
            except (EncodeError, TypeError) as exc:
                raise _input_error(order.request.program, exc) from exc
            keyed = [ask for ask in fresh if ask.key is not None]
            keys = [sheet.key, *(ask.reservation for ask in keyed)]
            args = [sheet.message, self._keep_s, *(ask.record.encode("sent") for ask in keyed), *self._transit_args]
            found = run_blocking(self._run_enqueue(keys, args))
            if not any(found):
                break
            known |= _parse_reservations(keyed, found)
        return known

    async def _run_enqueue(self, keys: Sequence[str], args: Sequence[Any]) -> Sequence[bytes]:
        """Run the script, wait for replicas if that is wanted, and return the reservations that exist."""
        if not self._waits:
            return await self._connection.execute_script(lua.SCRIPTS["enqueue"], keys, args)
        durable, touch = self._connection.durable, ("EXPIRE", keys[1], self._keep_s)
        found, confirmed = await durable.run(lua.SCRIPTS["enqueue"], keys, args, self._replication, touch)
        self._replication.check(confirmed, "The prediction's message")
        return found

    @cached_property
    def _transit_args(self) -> list[str]:
        """Where a message of the fleet may be, for the script that looks for one; see ``in_transit.lua``."""
        namespace = self._payloads.namespace
        prefix = str((self._app.conf.broker_transport_options or {}).get("global_keyprefix", ""))
        lists = [place for queue in (self._queue, code_queue(self._queue)) for place in self._encoder.list_keys(queue)]
        results = self._app.backend.get_key_for_task("-").decode()[:-1]
        return [results, DeliveryKeys.of(namespace, prefix).base, FleetKeys(namespace).limits, *lists]

    def _send(self, order: _SendOptions, asks: list[PendingPrediction]) -> None:
        name, message = self._build_message(order, asks)
        self.send(name, message, priority=order.priority, headers=order.headers(), program=order.request.program)

    def _build_message(self, order: _SendOptions, asks: Sequence[PendingPrediction]) -> tuple[str, Any]:
        """Celery's send_task would also subscribe to the result, through a client that blocks and tries for 20 s."""
        request, make = order.request, self._app.amqp.create_task_message
        try:
            given = self._encode_inputs(request, asks)
            carried = [escape(inputs) for inputs in given]
            escaped = any(a is not b for a, b in zip(given, carried, strict=True))
        except (TypeError, ValueError) as exc:
            raise _input_error(request.program, exc) from exc
        kwargs = replace(request, escaped=escaped).keywords()
        shown: dict[str, Any] = {"argsrepr": HIDDEN, "kwargsrepr": HIDDEN}
        if not order.batch:
            args: list[Any] = [carried[0], request.program]
            return PREDICT, _without_defaults(make(asks[0].task_id, PREDICT, args, kwargs, **shown))
        items = [[ask.task_id, inputs] for ask, inputs in zip(asks, carried, strict=True)]
        args = [items, request.program]
        message = make(str(uuid4()), PREDICT_BATCH, args, kwargs, ignore_result=True, **shown)
        message.headers[TASK_IDS] = [ask.task_id for ask in asks]
        return PREDICT_BATCH, _without_defaults(message)

    def _encode_inputs(
        self, request: PredictionRequest, asks: Sequence[PendingPrediction]
    ) -> list[Mapping[str, Any] | str]:
        """Return the inputs as they are sent: those that are too large by reference."""
        carried: list[Mapping[str, Any] | str] = [ask.inputs for ask in asks]
        large = [place for place, inputs in enumerate(carried) if not self._payloads.fits(inputs)]
        if large:
            left_s = self._keep_s if request.deadline is None else request.deadline - time.time() + _CLOCK_SKEW_S
            keep_s = min(self._keep_s, left_s)
            stored = run_blocking(_gather(self._payloads.put(carried[place], keep_s) for place in large))
            for place, reference in zip(large, stored, strict=True):
                carried[place] = reference
        if self._payloads.cipher.is_on:
            return [
                self._payloads.encrypt_inputs(inputs, ask.task_id) for inputs, ask in zip(carried, asks, strict=True)
            ]
        return carried

    async def _reserve_all(self, asks: Sequence[PendingPrediction]) -> dict[str, SentRequest]:
        reserved = await asyncio.gather(*map(self._reserve, asks))
        return {ask.task_id: sent for ask, sent in zip(asks, reserved, strict=True) if sent is not None}

    async def _reserve(self, ask: PendingPrediction) -> SentRequest | None:
        """Return what was sent under the key before, or None if it has to be sent now.

        That is so for a new key, and for one whose first client died before it had sent its message. A client that
        is only slow makes the message go out twice, under one task id: workers drop a task that has a result.
        """
        client, until = self._connection.client, time.monotonic() + _MAX_SEND_S
        mine = ask.record.encode("reserved")
        while not await self._connection.wait_bounded(client.set(ask.reservation, mine, nx=True, ex=self._keep_s)):
            found = cast("bytes | None", await self._connection.wait_bounded(client.get(ask.reservation)))
            if found is None:
                continue  # it expired in between
            sent = _parse_reservations([ask], [found]).get(ask.task_id)
            if sent is not None and found.startswith(b"sent "):
                return sent
            if time.monotonic() >= until:
                return None
            await asyncio.sleep(_POLL_INTERVAL_S)
        return None

    async def _mark_sent(self, asks: Sequence[PendingPrediction]) -> None:
        kept = ("EX", self._keep_s)
        await self._connection.send_each([("SET", ask.reservation, ask.record.encode("sent"), *kept) for ask in asks])

    @cached_property
    def _broker(self) -> str:
        return get_broker_url(self._app)

    @cached_property
    def _uses_rabbitmq(self) -> bool:
        return is_rabbitmq(self._broker)

    @cached_property
    def _can_enqueue_by_script(self) -> bool:
        return is_same_server(self._broker, self._url)

    def _route(self, queue: str) -> dict[str, Any]:
        """Return where messages go; on RabbitMQ the queue's declaration, and how long its confirmation may take."""
        if not self._uses_rabbitmq:
            return {"queue": queue}
        return {"queue": self._rabbitmq_queue(queue), "confirm_timeout": CONFIRM_WITHIN_S}

    @cached_property
    def _rabbitmq_queue(self) -> Callable[[str], Any]:
        """Returns a queue by its name, each of which is built once."""
        return cache(make_queue)

    def _producer(self) -> AbstractContextManager[Any]:
        """Return a producer of the app's; on RabbitMQ its messages are confirmed, whatever the app is set to."""
        if not self._uses_rabbitmq:
            return self._app.producer_or_acquire()
        return acquire_confirmed_producer(self._app)

    @cached_property
    def _encoder(self) -> MessageEncoder:
        return MessageEncoder(self._app)

    def _reset_after_fork(self) -> None:
        """Drop the connections in a forked child, which must not write into its parent's."""
        if self._pid != os.getpid():
            self._pid = os.getpid()
            kombu.pools.reset()
            cast(Any, self._app)._after_fork()


@contextmanager
def _reconnect_after_error(producer: Any) -> Generator[None]:
    """Have a producer's connection open a new channel after a failure; kombu keeps the one that broke with it."""
    try:
        yield
    except Exception:
        connection = producer.__connection__
        if connection is not None:
            connection.revive(None)
        raise


@dataclass(frozen=True, slots=True)
class _SendOptions:
    request: PredictionRequest
    priority: int
    replies: str
    batch: bool
    more_headers: Mapping[str, str]

    def headers(self) -> dict[str, Any]:
        own = {SENT_AT: time.time(), REPLY_CHANNEL: self.replies, PROGRAM: self.request.program}
        return {**own, **self.more_headers}


def _without_defaults(message: Any) -> Any:
    """Return Celery's message without what its readers assume anyway: a third of what a queued prediction takes."""
    args, kwargs, embedded = message.body
    headers = {name: value for name, value in message.headers.items() if name in _KEPT or value not in _DEFAULTS}
    return message._replace(headers=headers, body=(args, kwargs, {k: v for k, v in embedded.items() if v is not None}))


def _parse_reservations(asks: Sequence[PendingPrediction], found: Sequence[bytes]) -> dict[str, SentRequest]:
    """Return which of these were sent before, by any client.

    Raises:
        IdempotencyConflictError: a key belongs to another request.
    """
    known: dict[str, SentRequest] = {}
    for ask, text in zip(asks, found, strict=True):
        if not text:
            continue
        record = Reservation.parse(text.decode())
        if record.digest != ask.record.digest:
            raise IdempotencyConflictError(str(ask.key), record.task_id)
        known[ask.task_id] = SentRequest(record.task_id, record.replies)
    return known


async def _gather(work: Iterable[Any]) -> list[Any]:
    return await asyncio.gather(*work)


def _input_error(program: str, cause: Exception) -> InputError:
    return InputError(program, "inputs", f"they must be JSON values: {cause}")
