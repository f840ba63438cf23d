"""Mapping: predictions for a stream of inputs, with a bounded number of them on the way."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, TypeVar, cast, overload

from snakepit_bridge.client.handle import Handle
from snakepit_bridge.exceptions import BridgeError, StoreUnavailableError
from snakepit_bridge.process.home_loop import run_blocking

if TYPE_CHECKING:
    from snakepit_bridge.client.fleet_prediction import FleetPrediction

T = TypeVar("T")

ErrorMode = Literal["raise", "return"]
Send = Callable[[Sequence[Mapping[str, Any]]], list[Handle]]
Forget = Callable[[Sequence[str]], Coroutine[Any, Any, None]]

_FORGOTTEN_AT_ONCE = 100

_log = logging.getLogger(__name__)


@overload
def map_inputs(
    send: Send,
    inputs: Iterable[Mapping[str, Any]],
    *,
    in_flight: int,
    batch: int,
    errors: Literal["raise"],
    timeout: float | None,
    forget: Forget | None = None,
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
    forget: Forget | None = None,
) -> Iterator[FleetPrediction | BridgeError]: ...


def map_inputs(
    send: Send,
    inputs: Iterable[Mapping[str, Any]],
    *,
    in_flight: int,
    batch: int,
    errors: ErrorMode,
    timeout: float | None,
    forget: Forget | None = None,
) -> Iterator[FleetPrediction | BridgeError]:
    """Yield a prediction for each of the inputs, in their order, as ``Fleet.map`` says.

    Args:
        send: enqueues a group of inputs.
        inputs: taken as fast as results come back.
        in_flight: how many are enqueued and not yet yielded, at most.
        batch: how many are enqueued together.
        errors: what becomes of one that fails.
        timeout: seconds to wait for each.
        forget: drops the results of ended tasks; called with the ids of those that were yielded, in whole groups.
    """
    waiting: deque[Handle] = deque()
    yielded = _Yielded(forget)
    for group in split(inputs, min(batch, in_flight)):
        while waiting and len(waiting) + len(group) > in_flight:
            yield _wait_for(waiting[0], timeout, errors)
            yielded.add(waiting.popleft())
        sent = send(group)
        yielded.expect(sent)
        waiting += sent
    while waiting:
        yield _wait_for(waiting[0], timeout, errors)
        yielded.add(waiting.popleft())
    yielded.forget_all()


class _Yielded:
    """The predictions that the caller has taken, until they are forgotten, many at once."""

    def __init__(self, forget: Forget | None) -> None:
        self._forget = forget
        self._groups: deque[list[Handle]] = deque()
        self._count = 0
        self._complete: list[Handle] = []

    def expect(self, group: list[Handle]) -> None:
        """Note a group that was sent, in its order."""
        if self._forget is not None:
            self._groups.append(list(group))

    def add(self, handle: Handle) -> None:
        """Note that the next prediction was taken."""
        if self._forget is None:
            return
        self._count += 1
        if self._count == len(self._groups[0]):
            self._complete += self._groups.popleft()
            self._count = 0
        if len(self._complete) >= _FORGOTTEN_AT_ONCE:
            self.forget_all()

    def forget_all(self) -> None:
        """Forget the groups that were taken as a whole; those that Redis can't forget now stay for the next time."""
        if self._forget is None or not self._complete:
            return
        try:
            run_blocking(self._forget([handle.id for handle in self._complete]))
        except StoreUnavailableError as exc:
            _log.warning("Results that were yielded already stay in Redis for now: %s", exc)
        else:
            self._complete.clear()


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
        if errors == "return":
            return exc
        raise


def track_progress(inputs: Iterable[Mapping[str, Any]], program: str) -> Iterator[Mapping[str, Any]]:
    """Yield the inputs, with a progress bar on a terminal."""
    from rich.progress import track

    total = len(cast(Any, inputs)) if hasattr(inputs, "__len__") else None
    yield from track(inputs, description=program, total=total)
