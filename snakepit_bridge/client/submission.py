"""The submit of one message: its predictions, each with a reservation if it has an idempotency key, and its span."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self
from uuid import NAMESPACE_URL, uuid4, uuid5

from snakepit_bridge.encryption.cipher import PLAIN, Cipher
from snakepit_bridge.exceptions import IdempotencyConflictError, InputError, SubmitOptionError
from snakepit_bridge.protocol.json_values import dumps
from snakepit_bridge.protocol.messages import PredictionRequest
from snakepit_bridge.redis.key_names import FleetKeys, IdempotencyKey, OwnedKey
from snakepit_bridge.telemetry import TELEMETRY
from snakepit_bridge.telemetry.metrics import MESSAGES_SENT


@dataclass(frozen=True, slots=True)
class Reservation:
    """What a reservation says of the request that its key belongs to.

    Attributes:
        digest: what was asked.
        task_id: its task.
        replies: the reply channel of its client.
    """

    digest: str
    task_id: str
    replies: str

    def encode(self, state: str) -> str:
        """Return the record as it is stored, after ``reserved`` or ``sent``."""
        return f"{state} {self.digest} {self.task_id} {self.replies}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse what ``encode`` returned."""
        _, digest, task_id, replies = text.split(" ", 3)
        return cls(digest, task_id, replies)


@dataclass(frozen=True, slots=True)
class PendingPrediction:
    """One prediction that is to be sent.

    Attributes:
        task_id: its task; the same for the same key and request.
        inputs: its inputs.
        key: its idempotency key, if it has one.
        reservation: Redis key of its reservation; empty without an idempotency key.
        record: what the reservation will say.
    """

    task_id: str
    inputs: Mapping[str, Any]
    key: IdempotencyKey | None
    reservation: str
    record: Reservation


def build_pending(
    request: PredictionRequest,
    inputs: Sequence[Mapping[str, Any]],
    keys: Sequence[IdempotencyKey | None],
    namespace: str,
    replies: str,
    *,
    cipher: Cipher = PLAIN,
) -> list[PendingPrediction]:
    """Return a pending prediction for each of the inputs.

    Args:
        request: what they have in common.
        inputs: the inputs of each.
        keys: an idempotency key, or None, for each.
        namespace: the fleet's.
        replies: the reply channel of the client.
        cipher: makes the digests that reservations have.

    Raises:
        InputError: inputs of a key aren't JSON.
        IdempotencyConflictError: a key stands here twice, with different inputs.
        SubmitOptionError: a key is no text, is empty or isn't valid UTF-8.
    """
    pending = [
        _build_one(request, fields, key, namespace, replies, cipher) for fields, key in zip(inputs, keys, strict=True)
    ]
    first: dict[IdempotencyKey, PendingPrediction] = {}
    for each in pending:
        if each.key is not None and first.setdefault(each.key, each).task_id != each.task_id:
            raise IdempotencyConflictError(str(each.key), first[each.key].task_id)
    return pending


def _build_one(
    request: PredictionRequest,
    inputs: Mapping[str, Any],
    key: IdempotencyKey | None,
    namespace: str,
    replies: str,
    cipher: Cipher,
) -> PendingPrediction:
    if key is None:
        task_id = str(uuid4())
        return PendingPrediction(task_id, inputs, None, "", Reservation("", task_id, replies))
    _check_key(key)
    digest = _hash_request(request, inputs, cipher)
    # With the digest, so that a key that is used again once its reservation has expired never finds another's result.
    name, reservation = _reservation_names(namespace, key)
    task_id = str(uuid5(NAMESPACE_URL, f"{name}/{digest}"))
    return PendingPrediction(task_id, inputs, key, reservation, Reservation(digest, task_id, replies))


def _check_key(key: object) -> None:
    text = key.key if isinstance(key, OwnedKey) else key
    if not isinstance(text, str) or not text:
        raise SubmitOptionError("idempotency_key", f"It is text that isn't empty, or None; got {text!r:.40}")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise SubmitOptionError("idempotency_key", "It is valid UTF-8; got half of a surrogate pair") from None


def _reservation_names(namespace: str, key: IdempotencyKey) -> tuple[str, str]:
    """Return the name that a task's id is derived from, and the reservation's Redis key.

    A namespace contains neither slash nor colon.
    """
    reservation = FleetKeys(namespace).idempotency(key)
    return reservation if isinstance(key, OwnedKey) else f"{namespace}/{key}", reservation


def _hash_request(request: PredictionRequest, inputs: Mapping[str, Any], cipher: Cipher) -> str:
    """Hash the part of a request that is the same in each attempt: neither its deadline nor how it is followed."""
    terms = {name: value for name, value in request.keywords().items() if name not in ("deadline", "stream", "escaped")}
    try:
        encoded = dumps([request.program, inputs, terms], sort_keys=True)
    except (TypeError, ValueError) as exc:
        raise InputError(request.program, "inputs", f"they must be JSON values: {exc}") from exc
    return cipher.digest("request", encoded.encode())


@dataclass(slots=True)
class Submit:
    """The submit of one message.

    Attributes:
        headers: what the message carries, so that the worker continues its trace.
        sent: whether the message is sent; it isn't if all its predictions were submitted before.
    """

    headers: dict[str, str] = field(default_factory=dict[str, str])
    sent: bool = True


@contextmanager
def record_submit(queue: str, program: str, task_ids: Sequence[str]) -> Generator[Submit]:
    """Record the block as the submit of one message.

    The headers are named as Celery's instrumentation for OpenTelemetry names them, so that a worker which is traced by
    that continues the trace as well.

    Args:
        queue: where the message goes.
        program: reference of the program.
        task_ids: ids of its predictions.
    """
    submit, meter = Submit(), TELEMETRY.meter
    labels = {
        "messaging.system": "celery",
        "messaging.destination.name": queue,
        "messaging.operation.name": "submit",
    }
    attributes = {
        **labels,
        "messaging.operation.type": "send",
        "messaging.message.id": task_ids[0] if len(task_ids) == 1 else None,
        "messaging.batch.message_count": len(task_ids) if len(task_ids) > 1 else None,
        "dspex.program": program,
    }
    with TELEMETRY.tracer.span(f"submit {queue}", kind="producer", attributes=attributes) as span:
        span.inject(submit.headers)
        try:
            yield submit
        except InputError:
            raise  # nothing was sent
        except Exception as exc:
            meter.add(MESSAGES_SENT, 1, {**labels, "error.type": type(exc).__name__})
            raise
        if submit.sent:
            meter.add(MESSAGES_SENT, 1, labels)
        else:
            span.set_attributes({"dspex.known": True})
