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

ErrorMode = Literal["raise", "return"]
Send = Callable[[Sequence[Mapping[str, Any]]], list[Handle]]


@overload
def map_inputs(
    send: Send,
    inputs: Iterable[Mapping[str, Any]],
    *,
    in_flight: int,
    batch: int,
    errors: Literal["raise"],
    timeout: float | None,
) -> Iterator[FleetPrediction]: ...


@overload
def map_inputs(
    send: Send,
    inputs: Iterable[Mapping[str, Any]],
    *,
    in_flight: int,
    batch: int,
    errors: ErrorMode,
    timeout: float | None,
) -> Iterator[FleetPrediction | BridgeError]: ...


def map_inputs(
    send: Send,
    inputs: Iterable[Mapping[str, Any]],
    *,
    in_flight: int,
    batch: int,
    errors: ErrorMode,
    timeout: float | None,
) -> Iterator[FleetPrediction | BridgeError]:
    """Yield a prediction for each of the inputs, in their order, as ``Fleet.map`` says.

    Args:
        send: enqueues a group of inputs.
        inputs: taken as fast as results come back.
        in_flight: how many are enqueued and not yet yielded, at most.
        batch: how many are enqueued together.
        errors: what becomes of one that fails.
        timeout: seconds to wait for each.
    """
    waiting: deque[Handle] = deque()
    for group in split(inputs, min(batch, in_flight)):
        while waiting and len(waiting) + len(group) > in_flight:
            yield _wait_for(waiting.popleft(), timeout, errors)
        waiting += send(group)
    while waiting:
        yield _wait_for(waiting.popleft(), timeout, errors)


def split(source: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield the items of a source in lists of ``size``; the last may be shorter."""
    group: list[T] = []
    for item in source:
        group.append(item)
        if len(group) >= size:
            yield group
            group = []
    if group:
        yield group


def _wait_for(handle: Handle, timeout: float | None, errors: ErrorMode) -> FleetPrediction | BridgeError:
    try:
        return handle.get(timeout)
    except BridgeError as exc:
        if errors == "raise":
            raise
        return exc


def track_progress(inputs: Iterable[Mapping[str, Any]], program: str) -> Iterator[Mapping[str, Any]]:
    """Yield the inputs, with a progress bar on a terminal."""
    from rich.progress import track

    total = len(cast(Any, inputs)) if hasattr(inputs, "__len__") else None
    yield from track(inputs, description=program, total=total)
