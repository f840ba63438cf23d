"""Mapping: predictions for a stream of inputs, with a bounded number of them on the way."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from snakepit_bridge.client.handle import Handle
from snakepit_bridge.exceptions import BridgeError

if TYPE_CHECKING:
    from snakepit_bridge.client.fleet_prediction import FleetPrediction

T = TypeVar("T")

Errors = Literal["raise", "return"]
Send = Callable[[Sequence[Mapping[str, Any]]], list[Handle]]


@overload
def mapped(
    send: Send,
    inputs: Iterable[Mapping[str, Any]],
    *,
    in_flight: int,
    batch: int,
    errors: Literal["raise"],
    timeout: float | None,
) -> Iterator[FleetPrediction]: ...


@overload
def mapped(
    send: Send,
    inputs: Iterable[Mapping[str, Any]],
    *,
    in_flight: int,
    batch: int,
    errors: Errors,
    timeout: float | None,
) -> Iterator[FleetPrediction | BridgeError]: ...


def mapped(
    send: Send,
    inputs: Iterable[Mapping[str, Any]],
    *,
    in_flight: int,
    batch: int,
    errors: Errors,
    timeout: float | None,
) -> Iterator[FleetPrediction | BridgeError]:
    """Yields a prediction for each of the inputs, in their order, as ``Fleet.map`` says.

    Args:
        send: enqueues some inputs.
        inputs: taken as fast as results come back.
        in_flight: how many are enqueued and not yet yielded, at most.
        batch: how many are enqueued together.
        errors: what becomes of one that fails.
        timeout: seconds to wait for each.
    """
    waiting: deque[Handle] = deque()
    for some in chunks(inputs, min(batch, in_flight)):
        while waiting and len(waiting) + len(some) > in_flight:
            yield _outcome(waiting.popleft(), timeout, errors)
        waiting += send(some)
    while waiting:
        yield _outcome(waiting.popleft(), timeout, errors)


def chunks(source: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yields so many of a source at a time, and what is left at its end."""
    some: list[T] = []
    for one in source:
        some.append(one)
        if len(some) >= size:
            yield some
            some = []
    if some:
        yield some


def _outcome(handle: Handle, timeout: float | None, errors: Errors) -> FleetPrediction | BridgeError:
    try:
        return handle.get(timeout)
    except BridgeError as failed:
        if errors == "raise":
            raise
        return failed


def shown(inputs: Iterable[Mapping[str, Any]], program: str) -> Iterator[Mapping[str, Any]]:
    """Yields the inputs, and shows on a terminal how far they are."""
    from rich.progress import track

    total = len(cast(Any, inputs)) if hasattr(inputs, "__len__") else None
    yield from track(inputs, description=program, total=total)
